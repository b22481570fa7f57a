//! A server with a certificate of an authority that only those know who are told: agent, bot and client reach it all the same.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sdp_server::config::Tls;

use crate::chat::typed;
use crate::harness::{AUTHORITY, run_test_with};

/// Makes an authority, and a certificate of its for this machine.
pub(crate) fn issue(folder: &Path) -> Tls {
    let mut params = CertificateParams::new(Vec::new()).expect("valid");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("made");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("valid");
    let certificate = params.signed_by(&key, &authority).expect("signed");
    let tls = Tls::new(folder.join("tls.pem"), folder.join("tls.key"));
    std::fs::write(folder.join(AUTHORITY), authority.pem()).expect("written");
    std::fs::write(&tls.certificate, certificate.pem()).expect("written");
    std::fs::write(&tls.key, key.serialize_pem()).expect("written");
    std::fs::set_permissions(&tls.key, std::fs::Permissions::from_mode(0o600)).expect("set");
    tls
}

#[test]
fn agent_bot_and_client_work_over_tls_with_an_authority_of_ones_own() {
    let folder = tempfile::tempdir().expect("a folder");
    run_test_with(
        |server, _| {
            server.public_url.set_scheme("https").expect("a scheme");
            server.tls = Some(issue(folder.path()));
        },
        async |sdp| {
            assert_eq!(sdp.url.scheme(), "https");
            sdp.hello().await;
            let (said, well) = typed(sdp, "/sdp deploy hello main\n/sdp status\n").await;
            assert!(well && said.contains("https://"), "{said}");
            sdp.restart_agent(|_| ()).await;
        },
    );
}

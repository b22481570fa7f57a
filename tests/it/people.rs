//! People in chat who have accounts: what they do there is done as their account, whatever they are called in the chat.

use sdp_bot::console::{self, Options};
use sdp_core::access::{NewToken, Origin, Vouched};
use sdp_core::api::{CreateToken, TokenKind};
use sdp_core::client::Client;
use sdp_core::principal::Role;
use sdp_core::secret::{GitCredential, Secret};
use tokio_util::sync::CancellationToken;

use crate::harness::{Sdp, name, run_test_with};

const USER: &str = "U024BE7LH";

/// What a user of the chat is shown who types this, and whether all went well.
async fn typed(sdp: &Sdp, bot: &Secret, commands: &str) -> (String, bool) {
    let client = sdp.client(bot).on_behalf_of(name(USER));
    shown(client, Options::script(Some(name(USER))), commands).await
}

async fn shown(client: Client, options: Options, commands: &str) -> (String, bool) {
    let mut output = Vec::new();
    let ended =
        console::run(client, commands.as_bytes(), &mut output, options, CancellationToken::new()).await;
    (String::from_utf8(output).expect("UTF-8"), ended.expect("it ran").success())
}

fn expect(said: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(said.contains(wanted), "{wanted:?} is missing from\n{said}");
    }
}

/// Their git host vouches for alice, who came by a link that the bot has shown.
async fn log_in(sdp: &Sdp, said: &str) {
    let link = said.split("/login/").nth(1).expect("a link").split_whitespace().next().expect("a code");
    let vouched = Vouched {
        origin: "https://git.example.com".into(),
        user: "alice".into(),
        credential: GitCredential { username: "alice".into(), password: Secret::new("hunter2hunter2") },
        role: Role::Developer,
        is_admin: false,
    };
    let life = std::time::Duration::from_secs(3600);
    let login = sdp.access().log_in(vouched, Some(link), Origin::default(), life);
    login.await.expect("logged in");
}

#[test]
fn a_user_of_a_chat_is_their_account_whatever_they_are_called_there() {
    let logs_in = |server: &mut sdp_server::Config, _: &mut sdp_agent::Config| {
        server.login.trust_bot = false;
        server.login.repository = Some("https://git.example.com/shop/login.git".parse().expect("valid"));
    };
    run_test_with(logs_in, async |sdp| {
        sdp.hello().await;
        sdp.push("hello", "broken", &[("greeting.txt", "x"), ("behaviour.txt", "ends")]);
        let bot = sdp.admin.create_token(&CreateToken::new(name("chat"), TokenKind::Bot)).await;
        let bot = bot.expect("made").token;

        // A stranger may look, and hears how to do more.
        let (said, well) = typed(sdp, &bot, "/sdp whoami\n/sdp services\n/sdp list all\n").await;
        assert!(well, "{said}");
        expect(&said, &["U024BE7LH here, and nobody to SDP yet", "/sdp login gives you a link", "1 service"]);
        let (said, well) = typed(sdp, &bot, "/sdp deploy hello main\n/sdp status\n/sdp logout\n").await;
        assert!(!well, "{said}");
        expect(&said, &["deploy needs a login", "so none is yours", "You were not logged in."]);

        let (said, well) = typed(sdp, &bot, "/sdp login\n").await;
        assert!(well, "{said}");
        log_in(sdp, &said).await;

        // From now on the account is who they are, and owns what they make; the user of the chat is who is called.
        let (said, well) =
            typed(sdp, &bot, "/sdp whoami\n/sdp status\n/sdp deploy hello main\n/sdp status\n").await;
        assert!(well, "{said}");
        expect(
            &said,
            &[
                "You are alice (U024BE7LH in this chat)",
                "alice at https://git.example.com",
                "Your sandbox alice is made when you first deploy to it.",
                "/~alice/hello/",
                "alice of alice",
            ],
        );
        assert!(!said.contains("asked by"), "it is her own sandbox:\n{said}");
        let (said, _) = typed(sdp, &bot, "/sdp deploy hello broken to qa\n").await;
        expect(&said, &["@U024BE7LH check failed", "(asked by alice)"]);

        // What she does elsewhere is hers in chat, too.
        let new = NewToken {
            name: name("ci"),
            kind: TokenKind::Deploy,
            owner: Some(name("alice")),
            service: None,
            expires_at: None,
        };
        let ci = sdp.client(&sdp.access().issue_token(new).await.expect("made").token);
        // Whoever asks in her name and is nobody in the chat: she is called by the name that a bot has learnt of her.
        let memory = tempfile::tempdir().expect("a folder");
        let remember = |person: Option<&str>| Options {
            store: Some(memory.path().join("bot.db")),
            ..Options::script(person.map(name))
        };
        let her = sdp.client(&bot).on_behalf_of(name(USER));
        expect(&shown(her, remember(Some(USER)), "/sdp status\n").await.0, &["alice of alice"]);
        let (said, _) = shown(ci.clone(), remember(None), "/sdp deploy hello broken to qa\n").await;
        expect(&said, &["@U024BE7LH check failed"]);
        let created = ci.deploy(&crate::harness::wanted("hello", "main"), None).await.expect("taken");
        sdp.wait(created.id.into()).await;
        let (said, well) = typed(sdp, &bot, "/sdp list mine\n/sdp login\n").await;
        assert!(well, "{said}");
        let sandbox = created.deployment.sandbox.to_string();
        expect(
            &said,
            &["alice: hello", "qa: nothing runs", &sandbox, "You are logged in already, as alice until"],
        );

        // A viewer is told whom to ask; who has logged out is a stranger again.
        sdp.admin.set_role(&name("alice"), Role::Viewer).await.expect("changed");
        let (said, well) = typed(sdp, &bot, "/sdp stop hello\n").await;
        assert!(!well, "{said}");
        expect(&said, &["logged in as alice, who may look but not act", "ask an admin", "/account"]);
        let (said, well) = typed(sdp, &bot, "/sdp logout\n/sdp whoami\n").await;
        assert!(well, "{said}");
        expect(&said, &["in this chat you are not alice any more", "nobody to SDP yet"]);
        assert_eq!(sdp.admin.people().await.expect("read").len(), 1);
    });
}

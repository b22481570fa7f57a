//! `sdp-agent enrol`: swaps an enrolment token for the agent's own one, and puts that where the agent reads it.
//!
//! ```text
//! an unfinished file beside token_file ─▶ POST <server>/api/v1/enrol ─▶ write, sync ─▶ rename ─▶ sync the folder ─▶ done
//! ```
//! Called by the `sdp-agent` program, with what [`ConfigFile::enrolment`](crate::config::ConfigFile::enrolment) has read. The enrolment
//! works once, so whatever could fail here is tried before it is used: the file is there, with mode 0600, when the server is asked. It is
//! sent to the configured server alone, over the same certificates as the agent's link, and to none that redirects.
//!
//! Limits: `ANSWER_WITHIN` for the answer, `MAX_ANSWER` bytes of it. If it is lost on its way the enrolment may be used up: then it takes
//! another one, and with that the token that nobody has is worthless.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sdp_core::api::{Enrolled, Problem};
use sdp_core::name::AgentName;
use sdp_core::secret::Secret;
use tokio::time::timeout;
use url::Url;

use crate::link::{InvalidLink, is_plain, tls};

/// How long the server may take, TLS included.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The longest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// What enrolment tokens begin with.
const PREFIX: &str = "sdpe_";

/// Why an agent was not enrolled: a stable code, a sentence, a next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// There is a token already.
    #[error("{path} is there already")]
    TokenThere {
        /// The token file.
        path: PathBuf,
    },
    /// It is another kind of token, or none. It was not sent anywhere.
    #[error("this is no enrolment token: those begin with {PREFIX}")]
    NotAnEnrolment,
    /// No token could be written there. The enrolment was not used.
    #[error("cannot write {path}")]
    CannotWrite {
        /// The token file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody answers at that address. The enrolment was not used.
    #[error("cannot reach the server at {server}")]
    Unreachable {
        /// Its address.
        server: Url,
        /// Why.
        #[source]
        source: Box<hyper_util::client::legacy::Error>,
    },
    /// The enrolment may have been used, but the token did not arrive.
    #[error("the server at {server} was asked, but its answer did not arrive: {problem}")]
    AnswerLost {
        /// Its address.
        server: Url,
        /// What happened, as a clause.
        problem: String,
    },
    /// The enrolment does not work.
    #[error("the server refuses this enrolment token")]
    Refused,
    /// The server answered something else.
    #[error("the server answered {status}: {title}")]
    Answered {
        /// What.
        status: StatusCode,
        /// Its sentence, if it said one.
        title: String,
        /// Its next step.
        hint: Option<String>,
    },
    /// The enrolment was used, but the token could not be stored.
    #[error("the token came, but {path} could not be written")]
    NotStored {
        /// The token file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl EnrolError {
    /// Stable code, e.g. `enrolment_refused`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenThere { .. } => "token_there",
            Self::NotAnEnrolment => "not_an_enrolment",
            Self::CannotWrite { .. } => "cannot_write",
            Self::Unreachable { .. } => "server_unreachable",
            Self::AnswerLost { .. } => "answer_lost",
            Self::Refused => "enrolment_refused",
            Self::Answered { .. } => "server_refused",
            Self::NotStored { .. } => "token_not_stored",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &str {
        const ANOTHER: &str = "ask an admin for another enrolment token (`sdp-server enrol NAME` on the server's host): this one may be used up, and the next one makes whatever it gave worthless";
        match self {
            Self::TokenThere { .. } => {
                "if the agent is to get a new token, say --force; the one it has works until then"
            }
            Self::NotAnEnrolment => "an admin makes one with `sdp-server enrol NAME` on the server's host",
            Self::CannotWrite { .. } => {
                "check token_file in the configuration, and who may write its folder; the enrolment token still works"
            }
            Self::Unreachable { .. } => {
                "check server and ca_file in the configuration; the enrolment token still works"
            }
            Self::AnswerLost { .. } | Self::NotStored { .. } => ANOTHER,
            Self::Refused => {
                "it works once, for an hour, until a newer one is made for the same agent: ask an admin for another one"
            }
            Self::Answered { hint, .. } => {
                hint.as_deref().unwrap_or("look at the server's log, then try again")
            }
        }
    }
}

/// The way to the server, and where the token is to be.
#[derive(Clone, Debug)]
pub struct Enrolment {
    server: Url,
    url: Url,
    tls: Arc<rustls::ClientConfig>,
    token_file: PathBuf,
}

impl Enrolment {
    /// # Errors
    /// When the address or the certificates cannot be used.
    pub fn new(server: &Url, ca_file: Option<&Path>, token_file: &Path) -> Result<Self, InvalidLink> {
        if !matches!(server.scheme(), "http" | "https") || !is_plain(server) {
            return Err(InvalidLink::Url);
        }
        let mut url = server.clone();
        url.set_path(&format!("{}/api/v1/enrol", url.path().trim_end_matches('/')));
        let tls = Arc::new(tls(ca_file)?);
        Ok(Self { server: server.clone(), url, tls, token_file: token_file.to_owned() })
    }

    /// Where the agent's token will be.
    #[must_use]
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// Uses an enrolment. When this returns the agent's token is in its file, on disk. `force`: in place of one that is there.
    ///
    /// # Errors
    /// What went wrong; [`EnrolError::hint`] says whether the enrolment is used up.
    pub async fn enrol(&self, enrolment: &Secret, force: bool) -> Result<AgentName, EnrolError> {
        if !enrolment.expose().starts_with(PREFIX) {
            return Err(EnrolError::NotAnEnrolment);
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", enrolment.expose()))
            .map_err(|_| EnrolError::NotAnEnrolment)?;
        authorization.set_sensitive(true);
        let path = || self.token_file.clone();
        if !force && self.token_file.symlink_metadata().is_ok() {
            return Err(EnrolError::TokenThere { path: path() });
        }
        let unfinished = Unfinished::create(&self.token_file)
            .map_err(|source| EnrolError::CannotWrite { path: path(), source })?;
        let Enrolled { agent, token } = self.ask(authorization).await?;
        unfinished
            .finish(&token, &self.token_file)
            .map_err(|source| EnrolError::NotStored { path: path(), source })?;
        Ok(agent)
    }

    async fn ask(&self, authorization: HeaderValue) -> Result<Enrolled, EnrolError> {
        let lost = |problem: String| EnrolError::AnswerLost { server: self.server.clone(), problem };
        let request = Request::post(self.url.as_str())
            .header(AUTHORIZATION, authorization)
            .header(USER_AGENT, concat!("sdp-agent/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|error| lost(error.to_string()))?;
        let https = HttpsConnectorBuilder::new()
            .with_tls_config((*self.tls).clone())
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(https);
        let answer = timeout(ANSWER_WITHIN, async {
            let response = client.request(request).await.map_err(|error| match error.is_connect() {
                true => EnrolError::Unreachable { server: self.server.clone(), source: Box::new(error) },
                false => lost(chain(&error)),
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| lost(error.to_string()))?.to_bytes();
            Ok((head.status, body))
        });
        let (status, body) =
            answer.await.map_err(|_| lost(format!("it took more than {} s", ANSWER_WITHIN.as_secs())))??;
        match status {
            // Not what a server says that is none of ours: there is a token in it, or it is not shown.
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|_| lost("it is not what an SDP server says".to_owned())),
            StatusCode::UNAUTHORIZED => Err(EnrolError::Refused),
            status => {
                let problem: Option<Problem> = serde_json::from_slice(&body).ok();
                let title = problem.as_ref().map_or("no SDP server says that", |problem| &problem.title);
                let (title, hint) = (title.to_owned(), problem.as_ref().and_then(|p| p.hint.clone()));
                Err(EnrolError::Answered { status, title, hint })
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

/// A file beside the token file that becomes it; removed if it does not.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    fn create(token_file: &Path) -> io::Result<Self> {
        let name = token_file.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let path = token_file.with_file_name(hidden);
        // What an attempt of the same process id has left, that was killed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file })
    }

    fn finish(mut self, token: &Secret, token_file: &Path) -> io::Result<()> {
        self.file.write_all(token.expose().as_bytes())?;
        self.file.write_all(b"\n")?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, token_file)?;
        let folder = token_file.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it is renamed there is none of this name.
        let _gone = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;

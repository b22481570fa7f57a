//! What can go wrong between this program and the server, each with a stable code and a next step.

use std::time::Duration;

use crate::api::Problem;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server refused it, and says why.
    #[error("{}", sentence(.0))]
    Problem(Box<Problem>),
    /// It was asked too often.
    #[error("{}", sentence(.problem))]
    TooManyRequests {
        /// What the server says.
        problem: Box<Problem>,
        /// When the same request may succeed.
        retry_after: Duration,
    },
    /// No connection to the server.
    #[error("no connection to {server}")]
    Unreachable {
        /// The server's URL.
        server: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// The connection ended in the middle.
    #[error("the connection to {server} broke")]
    Broken {
        /// The server's URL.
        server: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("{server} did not answer within {} s", after.as_secs())]
    TimedOut {
        /// The server's URL.
        server: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// An answer that is not SDP's: a proxy's page, another program.
    #[error("{server} answered {status}, not as SDP does: {text}")]
    Unexpected {
        /// The server's URL.
        server: String,
        /// HTTP status.
        status: u16,
        /// The beginning of the body, without control characters.
        text: String,
    },
    /// A body that does not have the expected form.
    #[error("the answer of {server} cannot be understood")]
    Malformed {
        /// The server's URL.
        server: String,
        /// What happened.
        source: serde_json::Error,
    },
    /// A body larger than is taken.
    #[error("the answer of {server} is larger than {limit} bytes")]
    TooLarge {
        /// The server's URL.
        server: String,
        /// The limit.
        limit: usize,
    },
    /// The URL or the token given to the client cannot be used.
    #[error("{problem}")]
    InvalidSetup {
        /// What is wrong with it.
        problem: String,
    },
}

fn sentence(problem: &Problem) -> String {
    match &problem.detail {
        Some(detail) => format!("{}: {detail}", problem.title.trim_end_matches('.')),
        None => problem.title.clone(),
    }
}

impl ClientError {
    /// Stable code: the server's own (`unknown_service`), or one of `unreachable`, `connection_broken`, `timed_out`,
    /// `unexpected_answer`, `malformed_answer`, `answer_too_large`, `invalid_setup`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Problem(problem) | Self::TooManyRequests { problem, .. } => &problem.code,
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "connection_broken",
            Self::TimedOut { .. } => "timed_out",
            Self::Unexpected { .. } => "unexpected_answer",
            Self::Malformed { .. } => "malformed_answer",
            Self::TooLarge { .. } => "answer_too_large",
            Self::InvalidSetup { .. } => "invalid_setup",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) | Self::TooManyRequests { problem, .. } => problem.hint.as_deref(),
            Self::Unreachable { .. } => Some("check the URL, the network, and that the server runs"),
            Self::Broken { .. } | Self::TimedOut { .. } => Some("try again in a moment"),
            Self::Unexpected { status: 300..=399, .. } => {
                Some("redirects are not followed; give the URL that it leads to")
            }
            Self::Unexpected { .. } => {
                Some("check that the URL is that of an SDP server, and the proxy before it")
            }
            Self::Malformed { .. } => Some("check that client and server have the same version"),
            Self::TooLarge { .. } => Some("ask for less: a filter, a limit, a window"),
            Self::InvalidSetup { .. } => Some("correct the URL or the token"),
        }
    }

    /// What the server said, if it was the server.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) | Self::TooManyRequests { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// How long the server wants to be left alone, if it was asked too often.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether the server is away or overloaded rather than of another opinion: the same request may succeed later.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::TooManyRequests { .. } => true,
            Self::Unexpected { status, .. } => matches!(status, 429 | 500..=599),
            Self::Problem(problem) => matches!(problem.status, 502..=504),
            _ => false,
        }
    }
}

//! What both ends hold: frames that can be sent over a WebSocket, or handed over in process.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{FromAgent, LinesBatch, MAX_CONTROL_FRAME, MAX_FRAME, ToAgent};

/// What an agent sends: control, or lines.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AgentFrame {
    /// A control message; much larger than a batch, which is a handle to its lines.
    Control(Box<FromAgent>),
    /// Log lines.
    Lines(LinesBatch),
}

impl From<FromAgent> for AgentFrame {
    fn from(message: FromAgent) -> Self {
        Self::Control(Box::new(message))
    }
}

/// A frame in the shape that a WebSocket carries: it has these two and no others, so this list is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawFrame {
    /// JSON text.
    Text(String),
    /// A batch of lines.
    Binary(Bytes),
}

/// A frame that cannot be understood; the connection is closed with `bad_frame`.
#[derive(Debug, thiserror::Error)]
#[error("bad frame: {0}")]
pub struct BadFrame(String);

impl AgentFrame {
    /// For a WebSocket.
    ///
    /// # Errors
    /// When it cannot be written as JSON or is too large; no frame of ours is that.
    pub fn encode(&self) -> Result<RawFrame, BadFrame> {
        match self {
            Self::Control(message) => to_text(message),
            Self::Lines(batch) => Ok(RawFrame::Binary(Bytes::from(batch.encode()))),
        }
    }

    /// From a WebSocket.
    ///
    /// # Errors
    /// When it is too large, or no frame of this protocol.
    pub fn decode(frame: &RawFrame) -> Result<Self, BadFrame> {
        match frame {
            RawFrame::Text(text) => from_text(text).map(Self::Control),
            RawFrame::Binary(bytes) if bytes.len() > MAX_FRAME => Err(BadFrame("too large".into())),
            RawFrame::Binary(bytes) => {
                LinesBatch::decode(bytes).map(Self::Lines).map_err(|error| BadFrame(error.to_string()))
            }
        }
    }
}

impl ToAgent {
    /// For a WebSocket. The text may hold a credential: it is sent, never logged.
    ///
    /// # Errors
    /// When it cannot be written as JSON or is too large; no frame of ours is that.
    pub fn encode(&self) -> Result<RawFrame, BadFrame> {
        to_text(self)
    }

    /// From a WebSocket.
    ///
    /// # Errors
    /// When it is too large, or no frame of this protocol.
    pub fn decode(frame: &RawFrame) -> Result<Self, BadFrame> {
        match frame {
            RawFrame::Text(text) => from_text(text),
            RawFrame::Binary(_) => Err(BadFrame("the server sends no binary frames".into())),
        }
    }
}

fn to_text(message: &impl serde::Serialize) -> Result<RawFrame, BadFrame> {
    let text = serde_json::to_string(message).map_err(|error| BadFrame(error.to_string()))?;
    // The other end would close the connection, and would do so again after the next hello.
    if text.len() > MAX_CONTROL_FRAME {
        return Err(BadFrame("too large".into()));
    }
    Ok(RawFrame::Text(text))
}

fn from_text<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, BadFrame> {
    if text.len() > MAX_CONTROL_FRAME {
        return Err(BadFrame("too large".into()));
    }
    // serde_json's text is not repeated: it may hold a credential.
    serde_json::from_str(text)
        .map_err(|error| BadFrame(format!("at line {} column {}", error.line(), error.column())))
}

/// How many frames may wait in an in-process connection, each way.
const QUEUE: usize = 64;

/// The agent's end of a connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct AgentEnd {
    /// To the server.
    pub tx: mpsc::Sender<AgentFrame>,
    /// From the server; `None` when the connection has ended.
    pub rx: mpsc::Receiver<ToAgent>,
}

/// The server's end of a connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct ServerEnd {
    /// To the agent.
    pub tx: mpsc::Sender<ToAgent>,
    /// From the agent; `None` when the connection has ended.
    pub rx: mpsc::Receiver<AgentFrame>,
}

/// A connection: both ends. In process they are used as they are; over a WebSocket each side pumps frames between its
/// socket and one of these, so that agent and orchestrator are the same code either way.
#[must_use]
pub fn pair() -> (AgentEnd, ServerEnd) {
    let (to_server, from_agent) = mpsc::channel(QUEUE);
    let (to_agent, from_server) = mpsc::channel(QUEUE);
    (AgentEnd { tx: to_server, rx: from_server }, ServerEnd { tx: to_agent, rx: from_agent })
}

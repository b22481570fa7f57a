//! What no program writes to its log, whatever its filter asks for. Pure; each program that sets up a log asks here.

use tracing::{Level, Metadata};

/// Whether a line may be written, if the filter lets it through.
///
/// What libraries say at `TRACE` are the bytes that they send and receive: credentials, tokens and variables among them. So no filter
/// shows that, and of the clients of container engines and WebSockets nothing below `INFO`, for what they debug has the same in it. What SDP itself says has no limit: it never says such things.
///
/// To be given to `tracing_subscriber::filter::filter_fn`, over the filter that somebody chose.
#[must_use]
pub fn may_show(metadata: &Metadata<'_>) -> bool {
    let most = match metadata.target().split("::").next().unwrap_or_default() {
        name if name == "sdp" || name.starts_with("sdp_") => Level::TRACE,
        "bollard" | "tungstenite" | "tokio_tungstenite" => Level::INFO,
        _ => Level::DEBUG,
    };
    *metadata.level() <= most
}

//! Rich text as people read it.

use serde_json::Value;

use super::model::Model;

/// A block of rich text.
pub(super) fn text(model: Option<&Model>, block: &Value) -> String {
    let parts = block["elements"].as_array().into_iter().flatten();
    let parts = parts.map(|part| match part["type"].as_str() {
        Some("rich_text_preformatted") => {
            let lines = pieces(model, part);
            lines.lines().map(|line| format!("| {line}")).collect::<Vec<_>>().join("\n")
        }
        Some("rich_text_list") => {
            let items = part["elements"].as_array().into_iter().flatten();
            items.map(|item| format!("• {}", pieces(model, item))).collect::<Vec<_>>().join("\n")
        }
        _ => pieces(model, part),
    });
    parts.collect::<Vec<_>>().join("\n")
}

fn pieces(model: Option<&Model>, part: &Value) -> String {
    let name = |id: &str| model.map_or_else(|| id.to_owned(), |model| model.user_name(id));
    let of = |piece: &Value, field: &str| piece[field].as_str().unwrap_or_default().to_owned();
    let pieces = part["elements"].as_array().into_iter().flatten();
    pieces
        .map(|piece| match piece["type"].as_str().unwrap_or_default() {
            "text" if piece["style"]["code"] == true => format!("`{}`", of(piece, "text")),
            "text" => of(piece, "text"),
            "link" => format!("{}↗", piece["text"].as_str().map_or_else(|| of(piece, "url"), str::to_owned)),
            "user" => format!("@{}", name(&of(piece, "user_id"))),
            "broadcast" => format!("@{}", of(piece, "range").to_uppercase()),
            "channel" => format!("#{}", of(piece, "channel_id")),
            "emoji" => format!(":{}:", of(piece, "name")),
            other => format!("({other})"),
        })
        .collect()
}

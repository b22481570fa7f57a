//! Texts in nginx's configuration language: everything is quoted, whatever it is.
//!
//! nginx knows no way to write a `$` that begins no variable: [`value`] has `${sdp_dollar}` in its place, a variable whose value is
//! `$`. Text that shall contain variables has [`variable`]s. A token of a configuration has at most [`LONGEST`] bytes.

/// nginx reads tokens of fewer than 4096 bytes.
pub(super) const LONGEST: usize = 3000;

const BEGIN: char = '\u{E000}';
const END: char = '\u{E001}';

/// Stands for a variable in a text that [`value`] quotes.
pub(super) fn variable(name: &str) -> String {
    format!("{BEGIN}{name}{END}")
}

/// A text that is taken as it is: a path, a map's key. Control characters are left out.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() || c == BEGIN || c == END => {}
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A text in which nginx looks for variables: a map's value, an answer's text.
pub(super) fn value(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '$' => out.push_str("${sdp_dollar}"),
            BEGIN => out.push_str("${"),
            END => out.push('}'),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A text as part of a regular expression that finds exactly it.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '~')) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A configuration under construction.
#[derive(Debug, Default)]
pub(super) struct Conf {
    text: String,
}

impl Conf {
    /// A line of our own, as it stands.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// `map "source" $to { … }`; the source and the values of `rows` are nginx's text, keys too. `default` comes last.
    pub(super) fn map(&mut self, source: &str, to: &str, default: &str, rows: &[(&str, &str)]) {
        self.begin_map(source, to, default);
        for (key, to) in rows {
            self.row(&quoted(key), &format!("\"{to}\""));
        }
        self.line("}");
    }

    pub(super) fn begin_map(&mut self, source: &str, to: &str, default: &str) {
        self.line(&format!("map \"{source}\" ${to} {{\n  default \"{default}\";"));
    }

    /// Key and value, quoted.
    pub(super) fn row(&mut self, key: &str, value: &str) {
        self.line(&format!("  {key} {value};"));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_stands_in_a_text_ends_it() {
        let hostile = "a;b{c}d\"e\n\rf#$host\\ g'${x}\u{0}";
        assert_eq!(quoted(hostile), r##""a;b{c}d\"e\nf#$host\\ g'${x}""##);
        assert_eq!(value(hostile), r##""a;b{c}d\"e\nf#${sdp_dollar}host\\ g'${sdp_dollar}{x}""##);
        assert_eq!(value(&format!("it is {}.", variable("sdp_x"))), "\"it is ${sdp_x}.\"");
        assert_eq!(literal("/a.b+(c)|~d"), "/a\\.b\\+\\(c\\)\\|~d");
    }
}

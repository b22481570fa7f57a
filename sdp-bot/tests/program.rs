//! The bot as a program: what it says of its configuration, and how it ends.

use std::path::Path;
use std::process::{Command, Output};

fn bot(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdp-bot"));
    command.args(arguments).current_dir(folder).env_clear();
    command.output().expect("it runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const CONFIG: &str = "
server = \"http://127.0.0.1:9\"
token_file = \"bot.token\"
data_dir = \"data\"
[slack]
bot_token_file = \"slack-bot.token\"
app_token_file = \"slack-app.token\"
api_url = \"http://127.0.0.1:9/api\"
";

#[test]
fn a_configuration_for_slack_is_checked_as_a_whole_and_no_token_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    let check = || {
        let output = bot(folder.path(), &["slack", "--config", "bot.toml", "--check-config"]);
        (output.status.code(), said(&output))
    };
    write("bot.toml", CONFIG);
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("cannot read bot.token"), "{text}");
    write("bot.token", "sdpb_secret");
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("cannot read slack-bot.token"), "{text}");
    write("slack-bot.token", "xoxb-secret");
    write("slack-app.token", "");
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("slack-app.token: it is empty"), "{text}");
    write("slack-app.token", "xapp-secret");
    let (code, text) = check();
    assert!(code == Some(0) && text.contains("can be used"), "{text}");
    write("bot.toml", &CONFIG.replace("data_dir = \"data\"", ""));
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("data_dir is missing"), "{text}");
    write("bot.toml", &CONFIG.replace("http://127.0.0.1:9/api", "http://slack.example.com/api"));
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("https") && !text.contains("secret"), "{text}");
}

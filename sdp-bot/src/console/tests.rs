//! What a terminal shows: the bytes go through a small model of a terminal.

use insta::assert_snapshot;

use super::*;
use crate::message::{Message, Tone};
use crate::text::Text;

/// As much of a terminal as the console uses: lines that wrap, `\r`, `\n`, cursor up, erase below, colours.
struct Terminal {
    columns: usize,
    rows: Vec<Vec<char>>,
    at: (usize, usize),
}

impl Terminal {
    fn new(columns: usize) -> Self {
        Self { columns, rows: vec![Vec::new()], at: (0, 0) }
    }

    fn write(&mut self, bytes: &str) {
        let mut chars = bytes.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\r' => self.at.1 = 0,
                '\n' => self.down(),
                '\u{1b}' => {
                    assert_eq!(chars.next(), Some('['), "only control sequences");
                    let mut number = String::new();
                    while let Some(digit) = chars.next_if(|c| c.is_ascii_digit() || *c == ';') {
                        number.push(digit);
                    }
                    match chars.next() {
                        Some('A') => {
                            self.at.0 =
                                self.at.0.checked_sub(number.parse().unwrap()).expect("above the top");
                        }
                        Some('J') => {
                            self.rows.truncate(self.at.0 + 1);
                            self.rows[self.at.0].truncate(self.at.1);
                        }
                        Some('m') => {}
                        other => panic!("unexpected {other:?}"),
                    }
                }
                c => {
                    assert!(!c.is_control(), "{c:?}");
                    if self.at.1 == self.columns {
                        self.at.1 = 0;
                        self.down();
                    }
                    let row = &mut self.rows[self.at.0];
                    row.resize(row.len().max(self.at.1), ' ');
                    if self.at.1 < row.len() {
                        row[self.at.1] = c;
                    } else {
                        row.push(c);
                    }
                    self.at.1 += 1;
                }
            }
        }
    }

    fn down(&mut self) {
        self.at.0 += 1;
        if self.at.0 == self.rows.len() {
            self.rows.push(Vec::new());
        }
    }

    fn text(&self) -> String {
        self.rows
            .iter()
            .map(|row| row.iter().collect::<String>().trim_end().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn root(number: u32, state: &str) -> Message {
    let title =
        Text::new().strong(format!("#{number} hello")).plain(" ").code("main").plain(format!(": {state}"));
    let log = format!("http://127.0.0.1:7000/deployments/{number}/{}", "x".repeat(40)).parse().unwrap();
    Message::new(Tone::Working, title).line(Text::new().dim("log ").link(&log))
}

fn reply(text: &str) -> Message {
    Message::new(Tone::Good, Text::from(text))
}

fn board(look: Look) -> Board {
    Board::new(look, Paint { colour: true })
}

#[test]
fn a_message_changes_in_place_and_its_thread_grows_while_somebody_types() {
    let mut terminal = Terminal::new(60);
    let mut board = board(Look::Live(Size::Fixed(60, 24)));
    terminal.write(&board.draw(""));
    board.echo("deploy hello main");
    let one = board.post(root(1, "queued"));
    terminal.write(&board.draw(""));
    let two = board.post(root(2, "queued"));
    terminal.write(&board.draw("stat"));
    board.update(&one, root(1, "building 2 s"), false);
    board.reply(&one, reply("resolve main is 1a2b3c4d"));
    board.reply(&two, reply("resolve ünï"));
    terminal.write(&board.draw("status"));
    assert_snapshot!(terminal.text(), @r"
    > deploy hello main
    ▸ #1 hello main: building 2 s
      log http://127.0.0.1:7000/deployments/1/xxxxxxxxxxxxxxxxxx
    xxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve main is 1a2b3c4d
    ▸ #2 hello main: queued
      log http://127.0.0.1:7000/deployments/2/xxxxxxxxxxxxxxxxxx
    xxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve ünï
    > status
    ");

    board.update(&one, root(1, "running"), true);
    board.answer(&Message::new(Tone::Plain, Text::from("an answer")));
    terminal.write(&board.draw("status x"));
    assert_snapshot!(terminal.text(), @r"
    > deploy hello main
    ▸ #1 hello main: running
      log http://127.0.0.1:7000/deployments/1/xxxxxxxxxxxxxxxxxx
    xxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve main is 1a2b3c4d
    · an answer
    ▸ #2 hello main: queued
      log http://127.0.0.1:7000/deployments/2/xxxxxxxxxxxxxxxxxx
    xxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve ünï
    > status x
    ");
    // Nothing new: nothing is written.
    assert_eq!(board.draw("status x"), "");

    board.reply(&one, reply("a late word"));
    terminal.write(&board.finish());
    assert_snapshot!(terminal.text(), @r"
    > deploy hello main
    ▸ #1 hello main: running
      log http://127.0.0.1:7000/deployments/1/xxxxxxxxxxxxxxxxxx
    xxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve main is 1a2b3c4d
    · an answer
    ✓ a late word
    ▸ #2 hello main: queued
      log http://127.0.0.1:7000/deployments/2/xxxxxxxxxxxxxxxxxx
    xxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve ünï
    ");
}

#[test]
fn on_a_small_terminal_older_threads_give_way() {
    let size = Size::Fixed(60, 10);
    let mut board = board(Look::Live(size));
    let mut terminal = Terminal::new(60);
    for number in 1..=4 {
        let place = board.post(root(number, "building"));
        for step in ["resolve", "fetch"] {
            board.reply(&place, reply(step));
        }
        terminal.write(&board.draw(""));
        assert!(terminal.rows.len() <= 10, "{}", terminal.text());
    }
    assert_snapshot!(terminal.text(), @r"
    and 1 more
    ▸ #2 hello main: building
    ▸ #3 hello main: building
    ▸ #4 hello main: building
      log http://127.0.0.1:7000/deployments/4/xxxxxxxxxxxxxxxxxx
    xxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve
      │ ✓ fetch
    >
    ");
}

#[test]
fn a_terminal_that_became_narrower_is_not_smeared() {
    let mut board = board(Look::Live(Size::Fixed(60, 24)));
    let mut wide = Terminal::new(60);
    let words = "a row that fits into sixty columns but not in forty-five";
    board.post(Message::new(Tone::Working, Text::from("#1 hello: queued")).line(Text::from(words)));
    wide.write(&board.draw(""));
    // What a terminal does when it is made narrower: it wraps what it shows.
    let mut narrow = Terminal::new(45);
    narrow.write(&wide.text().replace('\n', "\r\n"));
    narrow.write(" ");
    board.look = Look::Live(Size::Fixed(45, 24));
    board.resized();
    narrow.write(&board.draw("x"));
    assert_eq!(narrow.text().matches("#1 hello").count(), 1, "{}", narrow.text());
}

#[test]
fn line_by_line_each_thread_is_named_when_it_changes() {
    let mut board = Board::new(Look::Script, Paint { colour: false });
    let mut out = String::new();
    board.echo("deploy hello main");
    let one = board.post(root(1, "queued"));
    out += &board.draw("");
    board.reply(&one, reply("resolve"));
    let two = board.post(root(2, "queued"));
    board.reply(&two, reply("resolve"));
    board.reply(&one, reply("fetch"));
    let mut away = root(1, "building");
    away.notice = Some(Text::from("SDP's server has not answered for 6 s"));
    board.update(&one, away.clone(), false);
    board.update(&one, away, false);
    board.update(&one, root(1, "running"), true);
    out += &board.draw("");
    out += &board.finish();
    assert_snapshot!(out, @r"
    > deploy hello main
    ▸ #1 hello main: queued
      log http://127.0.0.1:7000/deployments/1/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve
    ▸ #2 hello main: queued
      log http://127.0.0.1:7000/deployments/2/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      │ ✓ resolve
      #1 hello main
      │ ✓ fetch
      │ i SDP's server has not answered for 6 s
    ");
}

fn client_of_nobody() -> Client {
    Client::new("http://127.0.0.1:1".parse().unwrap(), sdp_core::secret::Secret::new("t")).unwrap()
}

async fn script(input: &str) -> (Ended, String) {
    let mut output = Vec::new();
    let options = Options::script(Some("alice".parse().unwrap()));
    let ended = run(client_of_nobody(), input.as_bytes(), &mut output, options, CancellationToken::new());
    (ended.await.unwrap(), String::from_utf8(output).unwrap())
}

#[tokio::test]
async fn a_script_answers_each_line_and_tells_whether_all_went_well() {
    let (ended, text) = script("/sdp help rollback\n\n# a remark\nhelp whoami").await;
    assert_eq!((ended.succeeded, ended.failed, ended.exit_code()), (2, 0, 0));
    assert_snapshot!(text, @r"
    > /sdp help rollback
    · rollback <service|412> [in <sandbox>]
      deploy what ran before
      for example rollback payments
      The kept build is started again, if it is still there.
    > help whoami
    · whoami
      who you are to SDP, and what you may do
      for example whoami
    ");
    let (ended, text) = script("deplyo hello\nquit\nwhoami\n").await;
    assert_eq!((ended.succeeded, ended.failed, ended.exit_code()), (0, 1, 1));
    assert_snapshot!(text, @r"
    > deplyo hello
    ✗ I do not know “deplyo”. Did you mean deploy?
      next help
    ");
}

#[tokio::test]
async fn while_the_server_is_away_people_get_a_plain_sentence() {
    let (ended, text) = script("deploy hello main\n").await;
    assert_eq!(ended.failed, 1);
    assert_snapshot!(text, @r"
    > deploy hello main
    ✗ SDP's server does not answer at the moment. Nothing was done.
      that is no connection to http://127.0.0.1:1
      next try again in a minute; what already runs goes on without it
    ");
}

#[tokio::test]
async fn at_the_end_of_a_shutdown_nothing_is_left_running() {
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let (_never, input) = tokio::io::duplex(64);
    let options = Options { look: Look::Live(Size::Fixed(80, 24)), ..Options::script(None) };
    let mut output = Vec::new();
    let input = tokio::io::BufReader::new(input);
    let ended = run(client_of_nobody(), input, &mut output, options, shutdown).await.unwrap();
    assert!(ended.success());
}

#[tokio::test]
async fn a_chat_that_has_gone_is_told_to_whoever_asks() {
    let abilities = Abilities {
        edit_every: Duration::ZERO,
        tick: None,
        private: true,
        places_survive: false,
        watched: true,
        paced: false,
    };
    let (chat, requests) = Chat::new(abilities);
    drop(requests);
    let asked = chat.show(&Conversation("c".into()), reply("x")).await;
    assert_eq!(asked, Err(ChatGone));
}

#[tokio::test]
async fn executing_nothing_says_how_it_is_used_and_fails() {
    for nothing in ["", "  ", "# a remark"] {
        let mut output = Vec::new();
        let ended =
            exec(client_of_nobody(), nothing, &mut output, Options::script(None), CancellationToken::new());
        assert_eq!(ended.await.unwrap().exit_code(), 1, "{nothing:?}");
        assert!(output.starts_with(b"usage: sdp-bot exec"), "{nothing:?}");
    }
}

#[test]
fn captured_output_never_holds_a_link_that_signs_in() {
    assert!(!Options::script(None).private);
}

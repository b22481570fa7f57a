"""Slack's own client for Python talks to the fake Slack of the tests; sdk_check.rs starts it and does what people do."""

import json
import sys
import threading
import urllib.parse
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry import RateLimitErrorRetryHandler
from slack_sdk.models.blocks import ActionsBlock, ButtonElement, HeaderBlock, SectionBlock
from slack_sdk.signature import SignatureVerifier
from slack_sdk.socket_mode.builtin import SocketModeClient
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.webhook import WebhookClient

URL, BOT_TOKEN, APP_TOKEN, SECRET = sys.argv[1:5]
# Blocks without a text are tried, too.
warnings.simplefilter("ignore")
web = WebClient(token=BOT_TOKEN, base_url=URL + "/", retry_handlers=[])


def act(do, **more):
    """Lets somebody do something, or something go wrong."""
    print("act " + json.dumps({"do": do, **more}), flush=True)
    return json.loads(sys.stdin.readline())


def refused(expected, call, *arguments, **more):
    try:
        answer = call(*arguments, **more)
    except SlackApiError as problem:
        assert problem.response["error"] == expected, (expected, problem.response)
        return problem.response
    raise AssertionError(f"{expected} was expected: {answer.data}")


def button(label, **more):
    return {"type": "button", "text": {"type": "plain_text", "text": label}, **more}


def section(text):
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def who_we_are():
    me = web.auth_test()
    assert (me["team_id"], me["user_id"], me["bot_id"]) == ("T1", "UBOT", "B1"), me.data
    assert me["url"].startswith("https://")
    assert web.api_test(foo="bar")["args"]["foo"] == "bar"
    refused("whatever", web.api_test, error="whatever")
    refused("invalid_auth", WebClient(token="xoxb-wrong", base_url=URL + "/").auth_test)
    refused("not_authed", WebClient(base_url=URL + "/").auth_test)
    refused("not_allowed_token_type", web.apps_connections_open, app_token=BOT_TOKEN)
    refused("unknown_method", web.api_call, "chat.sing")
    assert web.users_info(user="UALICE")["user"]["profile"]["display_name"] == "alice"
    refused("user_not_found", web.users_info, user="UNOBODY")


def posts_and_edits():
    metadata = {"event_type": "sdp_deployment", "event_payload": {"number": 412, "name": "hello"}}
    blocks = [
        HeaderBlock(text="Deploy"),
        SectionBlock(text="*hello* for <@UALICE> &amp; all"),
        ActionsBlock(elements=[ButtonElement(text="Stop", action_id="stop", value="1", style="danger")]),
    ]
    root = web.chat_postMessage(
        channel="CDEV", text="hello", blocks=blocks, metadata=metadata, unfurl_links=False, unfurl_media=False
    )
    assert root["channel"] == "CDEV" and root["message"]["bot_id"] == "B1" and root["message"]["blocks"][0]["block_id"]
    reply = web.chat_postMessage(channel="CDEV", text="a step", thread_ts=root["ts"])
    assert reply["message"]["thread_ts"] == root["ts"]
    edited = web.chat_update(channel="CDEV", ts=root["ts"], text="hello runs")
    assert edited["text"] == "hello runs" and "blocks" not in edited["message"] and "edited" in edited["message"]
    edited = web.chat_update(channel="CDEV", ts=root["ts"], text="x", blocks=[section("runs"), section("well")])
    assert len(edited["message"]["blocks"]) == 2
    link = web.chat_getPermalink(channel="CDEV", message_ts=reply["ts"])["permalink"]
    assert f"thread_ts={root['ts']}" in link, link
    web.chat_postEphemeral(channel="CDEV", user="UALICE", text="psst")
    assert "psst" in act("whispers") and "psst" not in act("transcript", channel="#dev")
    direct = web.conversations_open(users="UALICE")["channel"]["id"]
    assert web.chat_postMessage(channel="UALICE", text="hi")["channel"] == direct
    assert web.conversations_info(channel="CDEV")["channel"]["is_member"]
    # Bodies as forms, as other clients send them.
    formed = web.api_call("chat.postMessage", data={"channel": "CDEV", "blocks": json.dumps([section("form")])})
    assert formed["message"]["blocks"][0]["text"]["text"] == "form"
    assert web.chat_delete(channel="CDEV", ts=formed["ts"])["ok"]

    post, update = web.chat_postMessage, web.chat_update
    refused("channel_not_found", post, channel="CNONE", text="x")
    refused("not_in_channel", post, channel="CRANDOM", text="x")
    refused("is_archived", post, channel="COLD", text="x")
    refused("no_text", post, channel="CDEV")
    refused("msg_too_long", post, channel="CDEV", text="x" * 40_001)
    refused("msg_too_long", update, channel="CDEV", ts=root["ts"], text="x" * 4001)
    refused("message_not_found", update, channel="CDEV", ts="1.000001", text="x")
    refused("channel_not_found", update, channel="UALICE", ts=root["ts"], text="x")
    refused("user_not_in_channel", web.chat_postEphemeral, channel="CDEV", user="UNOBODY", text="x")
    for wrong in (
        [section("x" * 3001)],
        [section("x")] * 51,
        [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}],
        [{"type": "actions", "elements": [button("x" * 76)]}],
        [{"type": "actions", "elements": [button("x", value="x" * 2001)]}],
        [{"type": "actions", "elements": [button("x", action_id="a"), button("y", action_id="a")]}],
        [{"type": "sonnet"}],
        [{**section("x"), "colour": "red"}],
    ):
        answer = refused("invalid_blocks", post, channel="CDEV", text="x", blocks=wrong)
        assert "json-pointer:/blocks" in answer["response_metadata"]["messages"][0], answer.data
    return root["ts"]


def history(root):
    for count in range(5):
        web.chat_postMessage(channel="CDEV", text=f"message {count}")
    # The client goes on by the cursor itself.
    pages = [page["messages"] for page in web.conversations_history(channel="CDEV", limit=2, include_all_metadata=True)]
    messages = [message for page in pages for message in page]
    assert [len(page) for page in pages] == [2, 2, 2], pages
    assert [message["ts"] for message in messages] == sorted((m["ts"] for m in messages), reverse=True)
    assert messages[-1]["metadata"]["event_payload"]["number"] == 412 and messages[-1]["reply_count"] == 1
    plain = web.conversations_history(channel="CDEV", latest=messages[0]["ts"], oldest=root)["messages"]
    assert len(plain) == 4 and all("metadata" not in message for message in plain)
    assert len(web.conversations_history(channel="CDEV", oldest=root, inclusive=True)["messages"]) == 6
    replies = web.conversations_replies(channel="CDEV", ts=root)["messages"]
    assert [message["text"] for message in replies] == ["x", "a step"], replies
    refused("not_in_channel", web.conversations_history, channel="CRANDOM")
    refused("thread_not_found", web.conversations_replies, channel="CDEV", ts="1.000001")
    refused("invalid_cursor", web.conversations_history, channel="CDEV", cursor="x")
    act("refuse", method="conversations.history")
    refused("missing_scope", web.conversations_history, channel="CDEV")
    act("lift", method="conversations.history")
    assert web.conversations_history(channel="CDEV")["ok"]


def failures():
    act("fail", method="chat.postMessage", fault="ratelimited")
    answer = refused("ratelimited", web.chat_postMessage, channel="CDEV", text="x")
    assert answer.status_code == 429 and answer.headers["Retry-After"] == "7", answer.headers
    act("fail", method="chat.postMessage", fault="status")
    try:
        web.chat_postMessage(channel="CDEV", text="x")
        raise AssertionError("it was to fail")
    except SlackApiError as problem:
        assert problem.response.status_code == 502
    before = act("transcript", channel="#dev").count("lost")
    for fault in ("cut", "hang"):
        act("fail", method="chat.postMessage", fault=fault, after=True)
        try:
            WebClient(token=BOT_TOKEN, base_url=URL + "/", timeout=1, retry_handlers=[]).chat_postMessage(
                channel="CDEV", text="lost"
            )
            raise AssertionError("it was to fail")
        except OSError:
            pass
    assert act("transcript", channel="#dev").count("lost") == before + 2, "it was said, and the answer was lost"
    # The client that waits as it is told succeeds.
    act("enforce")
    patient = WebClient(token=BOT_TOKEN, base_url=URL + "/", retry_handlers=[RateLimitErrorRetryHandler(max_retry_count=3)])
    act("pass", seconds=60)
    for count in range(13):
        web.chat_postMessage(channel="CDEV", text=f"burst {count}")
    answer = refused("ratelimited", web.chat_postMessage, channel="CDEV", text="too much")
    assert 1 <= int(answer.headers["Retry-After"]) <= 10
    act("pass", seconds=int(answer.headers["Retry-After"]) - 1)
    assert patient.chat_postMessage(channel="CDEV", text="in time")["ok"]
    act("pass", seconds=60)


heard = Queue()
answers = {}


def listen(client, request):
    """Acknowledges with what is to be answered to this kind."""
    kind = request.payload.get("type", request.type)
    payload = answers.pop(kind, None)
    client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id, payload=payload))
    heard.put(request)


def next_of(kind):
    while True:
        request = heard.get(timeout=10)
        if request.payload.get("type", request.type) == kind or request.payload.get("event", {}).get("type") == kind:
            return request


INPUT = {"type": "plain_text_input", "action_id": "sandbox"}
SEARCH = {"type": "external_select", "action_id": "branch", "min_query_length": 0}


def text(words):
    return {"type": "plain_text", "text": words}


def form(title, *blocks, **more):
    return {"type": "modal", "title": text(title), "submit": text("Deploy"), "blocks": list(blocks), **more}


def fields():
    return (
        {"type": "input", "block_id": "b1", "label": text("Branch"), "element": SEARCH},
        {"type": "input", "block_id": "b2", "label": text("Sandbox"), "element": INPUT},
    )


def socket(client):
    client.connect()
    act("links", **{"open": 1, "asked for": 1})
    # A command, answered in the acknowledgement and later through its response URL.
    answers["slash_commands"] = {"text": "on it"}
    ack = act("slash", channel="#dev", text="status")
    assert ack["failed"] is None and ack["body"] == {"text": "on it"}, ack
    request = next_of("slash_commands")
    assert request.payload["command"] == "/sdp" and request.payload["text"] == "status"
    assert request.accepts_response_payload
    webhook = WebhookClient(request.payload["response_url"])
    assert webhook.send(text="done", replace_original=True).status_code == 200
    assert "done" in act("whispers") and "on it" not in act("whispers")
    for count in range(4):
        assert webhook.send(text=f"more {count}", response_type="in_channel" if count else "ephemeral").status_code == 200
    assert "more 1" in act("transcript", channel="#dev")
    last = webhook.send(text="once more")
    assert last.status_code == 404 and "used_url" in last.body, last.body

    # Events, and the bot's own words in a direct conversation.
    assert act("mention", channel="#dev", text="who hello")["failed"] is None
    event = next_of("app_mention").payload
    assert event["type"] == "event_callback" and event["event"]["text"] == "<@UBOT> who hello"
    act("dm", text="help")
    assert next_of("message").payload["event"]["channel_type"] == "im"
    web.chat_postMessage(channel="DALICE", text="yes?")
    while next_of("message").payload["event"].get("bot_id") != "B1":
        pass

    # A button in a message.
    elements = [button("Stop", action_id="stop", value="412", style="danger")]
    said = web.chat_postMessage(
        channel="CDEV",
        text="runs",
        blocks=[section("runs"), {"type": "actions", "elements": elements}],
        metadata={"event_type": "d", "event_payload": {"number": 412}},
    )
    assert act("click", channel="CDEV", ts=said["ts"], label="Stop")["failed"] is None
    click = next_of("block_actions").payload
    assert click["actions"][0]["value"] == "412" and click["container"]["message_ts"] == said["ts"]
    assert click["message"]["metadata"]["event_payload"]["number"] == 412
    WebhookClient(click["response_url"]).send(text="stopped", replace_original=True)
    assert "stopped" in act("transcript", channel="#dev")

    # A form: opened, changed, searched in, refused once, and taken.
    opened = web.views_open(trigger_id=click["trigger_id"], view=form("Loading", section("…")))["view"]
    refused("exchanged_trigger_id", web.views_open, trigger_id=click["trigger_id"], view=form("x", section("x")))
    refused("invalid_trigger_id", web.views_open, trigger_id="1.2.3", view=form("x", section("x")))
    shown = form("Deploy", *fields(), callback_id="deploy", private_metadata="m", external_id="e1")
    view = web.views_update(view_id=opened["id"], hash=opened["hash"], view=shown)["view"]
    assert view["id"] == opened["id"] and view["hash"] != opened["hash"] and view["root_view_id"] == view["id"]
    refused("hash_conflict", web.views_update, view_id=view["id"], hash=opened["hash"], view=shown)
    refused("not_found", web.views_update, view_id="VNONE", view=shown)
    assert web.views_update(external_id="e1", view=shown)["ok"]
    answers["block_suggestion"] = {"options": [{"text": text("feature/a"), "value": "feature/a"}]}
    assert act("options", action="branch", typed="fea") == [["feature/a", "feature/a"]]
    search = next_of("block_suggestion").payload
    assert search["value"] == "fea" and search["block_id"] == "b1" and search["view"]["state"]["values"]["b2"]
    act("choose", action="branch", label="feature/a")
    act("fill", action="sandbox", text="qa-42")
    answers["view_submission"] = {"response_action": "errors", "errors": {"b2": "no such sandbox"}}
    act("submit")
    state = next_of("view_submission").payload["view"]["state"]["values"]
    assert state["b1"]["branch"]["selected_option"]["value"] == "feature/a" and state["b2"]["sandbox"]["value"] == "qa-42"
    assert "! no such sandbox" in act("shows", what="form")
    act("submit")
    next_of("view_submission")
    act("slash", channel="#dev", text="deploy")
    late = next_of("slash_commands").payload["trigger_id"]
    act("pass", seconds=4)
    refused("expired_trigger_id", web.views_open, trigger_id=late, view=form("Late", section("x")))
    refused("invalid_arguments", web.views_open, trigger_id=late, view=form("x" * 25, section("x")))

    # A home.
    home = {"type": "home", "blocks": [section("none"), {"type": "actions", "elements": [button("New", action_id="n")]}]}
    act("home")
    assert next_of("app_home_opened").payload["event"]["tab"] == "home"
    first = web.views_publish(user_id="UALICE", view=home)["view"]
    web.views_publish(user_id="UALICE", view=home, hash=first["hash"])
    refused("hash_conflict", web.views_publish, user_id="UALICE", view=home, hash=first["hash"])
    act("click at home", label="New")
    assert next_of("block_actions").payload["view"]["type"] == "home"
    act("home")
    assert next_of("app_home_opened").payload["event"]["view"]["id"] == first["id"]

    # Told to go, and cut: each time the client comes back.
    act("disconnect", reason="warning")
    act("links", **{"open": 1, "asked for": 2})
    # It may sit in a read of the old socket for 3 s: what is not acknowledged comes again.
    assert act("mention", channel="#dev", text="still here")["failed"] is None
    assert act("slash", channel="#dev", text="still here")["failed"] is None
    act("cut")
    act("links", **{"open": 1, "asked for": 3})
    assert act("mention", channel="#dev", text="here again")["failed"] is None
    assert act("slash", channel="#dev", text="here again")["failed"] is None
    client.close()
    act("links", **{"open": 0, "asked for": 3})


def callbacks():
    verifier = SignatureVerifier(SECRET)
    got = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            valid = verifier.is_valid_request(body, dict(self.headers))
            again = self.headers.get("X-Slack-Retry-Num")
            got.put((valid, self.headers["Content-Type"], body, again))
            refuse = b"fail once" in body and again is None
            self.send_response(500 if refuse else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if body.startswith(b'{"'):
                self.wfile.write(json.dumps({"challenge": json.loads(body).get("challenge")}).encode())
            elif b"command=" in body:
                self.wfile.write(b'{"text": "heard over HTTP"}')

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    act("call back", url=f"http://127.0.0.1:{server.server_port}/slack")
    challenged = act("again", payload={"type": "url_verification", "token": "t", "challenge": "3eZbrw1a"})
    assert challenged["body"]["challenge"] == "3eZbrw1a", challenged
    assert got.get()[:2] == (True, "application/json")
    assert act("slash", channel="#dev", text="status & more")["failed"] is None
    valid, kind, body, _ = got.get()
    fields = urllib.parse.parse_qs(body.decode())
    assert valid and kind == "application/x-www-form-urlencoded" and fields["text"] == ["status & more"], fields
    assert "heard over HTTP" in act("whispers")
    said = web.chat_postMessage(channel="CDEV", text="x", blocks=[{"type": "actions", "elements": [button("Go")]}])
    act("click", channel="CDEV", ts=said["ts"], label="Go")
    valid, _, body, _ = got.get()
    assert valid and json.loads(urllib.parse.parse_qs(body.decode())["payload"][0])["type"] == "block_actions"
    assert act("mention", channel="#dev", text="fail once")["attempts"] == 2
    first, second = got.get(), got.get()
    assert first[0] and second[0] and first[2] == second[2] and (first[3], second[3]) == (None, "1")
    server.shutdown()


who_we_are()
root = posts_and_edits()
act("pass", seconds=60)
history(root)
act("pass", seconds=60)
failures()
client = SocketModeClient(app_token=APP_TOKEN, web_client=web, ping_interval=0.5)
client.socket_mode_request_listeners.append(listen)
socket(client)
act("pass", seconds=60)
callbacks()
print("all of it is as Slack's client expects", flush=True)

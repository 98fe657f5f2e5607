"""Drives a node with the published Python SDK: `show.py <step> <address> [<file>]`.

With several addresses, separated by commas, each call goes to the next of them.

Steps: `all` (negotiation, modes, refusals, streams, watches, policies, suspension), `write` (one open session and
one resolved one, noted in the file), `read` (what `write` noted is there, by another daemon), `load` (sends
and notes what was acknowledged until the node is gone), `verify` (all of that is there, each once),
`tls` (a node with the certificate in the file), `across` (what is done on one node is there on another at once),
`gone` (nothing of what `write` noted is there), `fixed` (policies are those of files).

With a file of certificates in SHOW_ROOTS all goes over TLS; with a secret in SHOW_JWT_SECRET, who has a
token of `tokens.json` comes with a JSON Web Token that says the same.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import threading
import time
import uuid

import grpc
from macp.v1 import core_pb2, envelope_pb2, policy_pb2
from macp_sdk import (
    AuthConfig,
    DecisionSession,
    HandoffSession,
    MacpAckError,
    MacpClient,
    MacpTransportError,
    ProposalSession,
    QuorumSession,
    TaskSession,
)
from macp_sdk.client import macp_error_code
from macp_sdk.envelope import build_envelope, serialize_message
from macp_sdk.policy import (
    CommitmentRules,
    HandoffAcceptanceRules,
    VotingRules,
    build_decision_policy,
    build_handoff_policy,
)

sys.dont_write_bytecode = True
from spread import ROOTS, Spread  # noqa: E402

ADDRESSES = sys.argv[2].split(",")
ADDRESS = ADDRESSES[0]
SECONDS = 20


def base64url(some):
    return base64.urlsafe_b64encode(some).rstrip(b"=")


def web_token(token, secret):
    """What the file says of a token, as a JSON Web Token (HS256); others are left as they are."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokens.json")) as file:
        known = {entry["token"]: entry for entry in json.load(file)["tokens"]}
    if token not in known:
        return token
    scopes = dict(known[token])
    del scopes["token"]
    claims = {
        "iss": "https://issuer.example",
        "aud": "macp-runtime",
        "sub": scopes.pop("sender"),
        "exp": int(time.time()) + 3600,
        "macp_scopes": scopes,
    }
    parts = [base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "k"}, claims)]
    signature = hmac.new(secret.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64url(signature)]).decode()


def client(token, sender=None, address=None):
    secret = os.environ.get("SHOW_JWT_SECRET")
    made = MacpClient(
        target=address or ADDRESS,
        allow_insecure=ROOTS is None,
        root_certificates=ROOTS,
        auth=AuthConfig.for_bearer(web_token(token, secret) if secret else token, sender_hint=sender),
        default_timeout=SECONDS,
    )
    if len(ADDRESSES) > 1 and address is None:
        made.stub = Spread(ADDRESSES)
    return made


A, B, C = client("token-a", "agent://a"), client("token-b", "agent://b"), client("token-c", "agent://c")
OBSERVER = client("token-observer", "agent://observer")
MANAGER = client("token-manager", "agent://manager")
AUTH = {c: c.auth for c in (A, B, C)}
ALL = ["agent://a", "agent://b", "agent://c"]
OPEN = envelope_pb2.SESSION_STATE_OPEN
RESOLVED = envelope_pb2.SESSION_STATE_RESOLVED


def refused(code, call, *args, **more):
    """The call is refused in band with this code."""
    try:
        call(*args, **more)
    except MacpAckError as error:
        assert error.failure.code == code, (code, error.failure)
        return error
    raise AssertionError(f"accepted, expected {code}: {call} {args} {more}")


def status(code, macp, call, *args, **more):
    """The call ends with this status and this code in its metadata."""
    try:
        result = call(*args, **more)
        if hasattr(result, "__next__"):
            next(result)
    except grpc.RpcError as error:
        assert (error.code().name, macp_error_code(error)) == (code, macp), error
        return error
    except MacpTransportError as error:
        assert (error.code, error.macp_code) == (code, macp), (error, error.code, error.macp_code)
        return error
    raise AssertionError(f"accepted, expected {macp}: {call} {args} {more}")


def ends(code, macp, *frames, who=None):
    """A stream with these frames ends with this status."""
    stream = (who or B).open_stream()
    for frame in frames:
        stream.send(frame)
    return status(code, macp, lambda: list(stream.responses(timeout=SECONDS)))


def changed(envelope, **fields):
    other = envelope_pb2.Envelope()
    other.CopyFrom(envelope)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def start_of(who, sid=None, mode=DecisionSession.MODE, **changes):
    """A start, also one that the SDK would not make."""
    fields = dict(
        intent="x", participants=ALL, mode_version="1.0.0", configuration_version="config.default",
        policy_version="policy.default", ttl_ms=1000,
    )
    fields.update(changes)
    return build_envelope(
        mode=mode, message_type="SessionStart", session_id=sid or str(uuid.uuid4()), sender=who.auth.sender,
        payload=serialize_message(core_pb2.SessionStartPayload(**fields)),
    )


def begin(kind, participants=ALL, by=A, **more):
    session = kind(by, policy_version=more.pop("policy", "policy.default"))
    ack = session.start(intent="a show", participants=participants, ttl_ms=more.pop("ttl_ms", 60_000), **more)
    assert ack.ok and ack.session_state == OPEN, ack
    return session


def done(session, action, **more):
    ack = session.commit(action=action, authority_scope="show", reason="because", **more)
    assert ack.session_state == RESOLVED, ack
    metadata = session.metadata().metadata
    assert metadata.state == RESOLVED and metadata.initiator == "agent://a", metadata
    refused("SESSION_NOT_OPEN", session.commit, action=action, authority_scope="s", reason="again", **more)
    assert session.cancel(reason="too late").session_state == RESOLVED
    return session


def decide(**more):
    session = begin(DecisionSession, **more)
    session.propose("p1", "blue", auth=AUTH[B])
    session.evaluate("p1", "APPROVE", confidence=0.9, auth=AUTH[C])
    for voter in (A, B, C):
        session.vote("p1", "APPROVE", auth=AUTH[voter])
    return session


def negotiation():
    def ask(*versions):
        return A.stub.Initialize(core_pb2.InitializeRequest(supported_protocol_versions=versions))
    for versions, code in (([], "INVALID_REQUEST"), (["9.9"], "UNSUPPORTED_PROTOCOL_VERSION")):
        status("INVALID_ARGUMENT", code, ask, *versions)
    answer = ask("9.9", "1.0")
    assert answer.selected_protocol_version == "1.0"
    assert answer.runtime_info.name and answer.runtime_info.version, answer
    can = core_pb2.Capabilities(
        sessions=core_pb2.SessionsCapability(stream=True, list_sessions=True, watch_sessions=True),
        cancellation=core_pb2.CancellationCapability(cancel_session=True),
        progress=core_pb2.ProgressCapability(progress=True),
        manifest=core_pb2.ManifestCapability(get_manifest=True),
        mode_registry=core_pb2.ModeRegistryCapability(list_modes=True, list_changed=True),
        roots=core_pb2.RootsCapability(list_roots=True, list_changed=False),
        policy_registry=policy_pb2.PolicyRegistryCapability(
            register_policy=True, list_policies=True, list_changed=True, what_if_replay=True
        ),
        decision_receipt=core_pb2.DecisionReceiptCapability(get_decision_receipt=True),
        experimental=core_pb2.ExperimentalCapabilities(features={"ext_mode_lifecycle": "true"}),
    )
    assert answer.capabilities == can, answer.capabilities
    # What needs no credential minds no bad one.
    nobody = client("no-such-token", "agent://a")
    assert nobody.initialize().capabilities == can
    standard, more = nobody.list_modes().modes, nobody.list_ext_modes().modes
    assert [m.mode for m in standard] == [f"macp.mode.{m}.v1" for m in ("decision", "proposal", "task", "handoff", "quorum")]
    assert [m.mode for m in more] == ["ext.multi_round.v1"]
    for mode in (*standard, *more):
        assert mode.mode_version == "1.0.0" and mode.message_types[0] == "SessionStart", mode
        assert list(mode.terminal_message_types) == ["Commitment"] and mode.message_types[-1] == "Commitment", mode
    assert list(answer.supported_modes) == sorted(m.mode for m in (*standard, *more))
    manifest = nobody.get_manifest().manifest
    assert manifest.agent_id == "macp-runtime" and sorted(manifest.supported_modes) == list(answer.supported_modes)
    assert nobody.get_manifest("macp-runtime").manifest == manifest
    status("NOT_FOUND", "AGENT_NOT_FOUND", A.get_manifest, "agent://nobody")
    assert not nobody.list_roots().roots and nobody.get_receipt_keys() is not None
    assert next(nobody.watch_roots()).HasField("change") and next(nobody.watch_mode_registry()).HasField("change")
    # All else needs one.
    sid, bad = str(uuid.uuid4()), ("UNAUTHENTICATED", "UNAUTHENTICATED")
    for call in (nobody.get_session, nobody.suspend_session, nobody.resume_session, nobody.get_decision_receipt):
        status(*bad, call, sid)
    status(*bad, nobody.cancel_session, sid, reason="none")
    status(*bad, nobody.what_if_replay, sid, policy_pb2.PolicyDescriptor())
    for call in (
        nobody.get_policy, nobody.register_policy, nobody.unregister_policy, nobody.unregister_ext_mode, nobody.promote_mode,
    ):
        status(*bad, call, None)
    for call in (
        nobody.list_sessions, nobody.list_policies, nobody.watch_sessions, nobody.watch_signals, nobody.watch_policies,
    ):
        status(*bad, call)
    status(*bad, nobody.open_stream().read, timeout=SECONDS)
    # None at all, and one that is not quite a bearer's.
    request = core_pb2.GetSessionRequest(session_id=sid)
    for metadata in ([], [(name, text.replace("Bearer", "bearer")) for name, text in A._metadata()]):
        status(*bad, A.stub.GetSession, request, metadata=metadata)


def modes():
    done(decide(), "decision.approved")

    session = begin(ProposalSession)
    session.propose("p1", "one", auth=AUTH[B])
    session.counter_propose("p2", "p1", "two", auth=AUTH[C])
    for who in (A, B, C):
        session.accept("p2", auth=AUTH[who])
    done(session, "proposal.accepted")

    session = begin(TaskSession)
    session.request_task("t1", "do it", requested_assignee="agent://b")
    session.accept_task("t1", auth=AUTH[B])
    session.update_task("t1", status="half", progress=0.5, auth=AUTH[B])
    session.complete_task("t1", output=b"done", auth=AUTH[B])
    done(session, "task.completed")

    session = begin(HandoffSession)
    session.offer("h1", "agent://b", scope="all")
    session.add_context("h1", context=b"notes")
    session.accept_handoff("h1", auth=AUTH[B])
    done(session, "handoff.accepted")

    session = begin(QuorumSession)
    session.request_approval("r1", "ship", required_approvals=2)
    session.approve("r1", auth=AUTH[B])
    refused("INVALID_ENVELOPE", session.commit, action="quorum.approved", authority_scope="s", reason="early")
    session.approve("r1", auth=AUTH[C])
    done(session, "quorum.approved")

    # The extension that is always there, as the SDK has no helper for it.
    sid = str(uuid.uuid4())
    payload = core_pb2.SessionStartPayload(
        intent="rounds", participants=ALL[:2], mode_version="1.0.0", configuration_version="config.default", ttl_ms=60_000
    )
    def said(kind, message, who):
        envelope = build_envelope(
            mode="ext.multi_round.v1", message_type=kind, session_id=sid, sender=who.auth.sender,
            payload=message if isinstance(message, bytes) else serialize_message(message),
        )
        return who.send(envelope)
    said("SessionStart", payload, A)
    said("Contribute", b'{"value":"x"}', A)
    said("Contribute", b'{"value":"x"}', B)
    commitment = core_pb2.CommitmentPayload(
        commitment_id="c", action="rounds.done", authority_scope="s", reason="equal", mode_version="1.0.0",
        configuration_version="config.default", outcome_positive=True,
    )
    assert said("Commitment", commitment, A).session_state == RESOLVED


def refusals():
    session = begin(DecisionSession, participants=ALL[:2], context_id="context", extensions={"key": b"value"})
    refused("FORBIDDEN", session.propose, "p", "x", auth=AUTH[C])
    refused("INVALID_ENVELOPE", session.commit, action="decision.approved", authority_scope="s", reason="none")
    session.propose("p", "x")
    refused("INVALID_ENVELOPE", session.propose, "p", "again")
    session.vote("p", "APPROVE")
    refused("INVALID_ENVELOPE", session.vote, "p", "REJECT")
    refused("FORBIDDEN", session.commit, action="decision.approved", authority_scope="s", reason="not mine", auth=AUTH[B])
    # A spoofed sender, an unknown token, an unknown session.
    spoofed = build_envelope(
        mode=session.MODE, message_type="Vote", session_id=session.session_id, sender="agent://b", payload=b"",
    )
    refused("UNAUTHENTICATED", A.send, spoofed)
    nobody = client("no-such-token", "agent://a")
    refused("UNAUTHENTICATED", nobody.send, spoofed)
    status("UNAUTHENTICATED", "UNAUTHENTICATED", nobody.get_session, session.session_id)
    status("NOT_FOUND", "SESSION_NOT_FOUND", A.get_session, str(uuid.uuid4()))
    status("PERMISSION_DENIED", "FORBIDDEN", C.get_session, session.session_id)
    assert OBSERVER.get_session(session.session_id).metadata.state == OPEN
    for other, own in (
        (A.cancel_session, B.cancel_session), (A.suspend_session, B.suspend_session), (A.resume_session, B.resume_session),
    ):
        status("NOT_FOUND", "SESSION_NOT_FOUND", other, str(uuid.uuid4()), reason="none")
        status("PERMISSION_DENIED", "FORBIDDEN", own, session.session_id, reason="not mine")
    # A refusal names what it refuses; the message may then come again, and is accepted once.
    envelope = build_envelope(
        mode=session.MODE, message_type="Vote", session_id=session.session_id, sender="agent://b",
        payload=b"\n\x01p\x12\x07APPROVE",
    )
    ids = (envelope.message_id, envelope.session_id)
    def fields(ack):
        assert (ack.message_id, ack.session_id) == ids and ack.accepted_at_unix_ms > 0, ack
        return ack.ok, ack.duplicate, ack.session_state
    ack = B.send(changed(envelope, payload=b"\n\x01p\x12\x07approve"), raise_on_nack=False)
    assert fields(ack) == (False, False, envelope_pb2.SESSION_STATE_UNSPECIFIED), ack
    error = ack.error
    assert (error.code, error.message_id, error.session_id, error.details) == ("INVALID_ENVELOPE", *ids, b""), error
    for duplicate in (False, True):
        ack = B.send(envelope)
        assert fields(ack) == (True, duplicate, OPEN) and not ack.HasField("error"), ack
    # What is told of it: who said how much, the start not counted.
    told = session.metadata().metadata
    assert {a.participant_id: a.message_count for a in told.participant_activity} == {"agent://a": 2, "agent://b": 1}, told
    assert (list(told.participants), told.context_id, list(told.extension_keys)) == (ALL[:2], "context", ["key"]), told
    assert (told.mode, told.policy_version, told.mode_version) == (session.MODE, "policy.default", "1.0.0"), told
    assert 0 < told.expires_at_unix_ms - told.started_at_unix_ms <= 60_000, told
    # It stays a duplicate, whoever says it, also of a session that has ended.
    gone = begin(DecisionSession)
    said = gone._propose_envelope("p", "x")
    A.send(said)
    gone.cancel(reason="over")
    for who in (A, B):
        ack = who.send(changed(said, sender=""))
        assert ack.ok and ack.duplicate and ack.session_state == envelope_pb2.SESSION_STATE_CANCELLED, ack
    refused("SESSION_NOT_OPEN", gone.propose, "q", "x")
    # Starts.
    def start(token=A, **changes):
        return token.send(start_of(token, **changes))
    refused("SESSION_ALREADY_EXISTS", start, sid=session.session_id)
    refused("INVALID_SESSION_ID", start, sid="short")
    refused("MODE_NOT_SUPPORTED", start, mode="macp.mode.none.v1")
    refused("UNKNOWN_POLICY_VERSION", start, policy_version="policy.none")
    refused("INVALID_POLICY_DEFINITION", start, mode="macp.mode.task.v1", policy_version="policy.std.majority")
    for change in (dict(ttl_ms=0), dict(ttl_ms=86_400_001), dict(mode_version="9"), dict(participants=["a", "a"])):
        refused("INVALID_ENVELOPE", start, **change)
    refused("FORBIDDEN", start, token=client("token-nostart", "agent://nostart"))
    refused("FORBIDDEN", start, token=client("token-task", "agent://task"))
    one = client("token-one", "agent://one")
    start(token=one, ttl_ms=60_000)
    refused("RATE_LIMITED", start, token=one)
    ends("RESOURCE_EXHAUSTED", "RATE_LIMITED", start_of(one), who=one)
    # Envelopes, which the SDK would not make.
    def raw(**changes):
        fields = dict(
            macp_version="1.0", mode=session.MODE, message_type="Vote", message_id=str(uuid.uuid4()),
            session_id=session.session_id, sender="agent://a",
        )
        fields.update(changes)
        return A.send(envelope_pb2.Envelope(**fields))
    refused("UNSUPPORTED_PROTOCOL_VERSION", raw, macp_version="2.0")
    refused("INVALID_ENVELOPE", raw, message_id="")
    refused("INVALID_ENVELOPE", raw, mode="macp.mode.task.v1")
    refused("INVALID_ENVELOPE", raw, payload=b"\xff\xff")
    refused("SESSION_NOT_FOUND", raw, session_id=str(uuid.uuid4()))
    refused("PAYLOAD_TOO_LARGE", raw, payload=b"x" * 1_048_577)
    # The first that is wrong is told: version, shape, size, credential.
    refused("UNSUPPORTED_PROTOCOL_VERSION", nobody.send, changed(spoofed, macp_version="2.0", message_id=""))
    refused("INVALID_ENVELOPE", nobody.send, changed(spoofed, message_id="", payload=b"x" * 1_048_577))
    refused("PAYLOAD_TOO_LARGE", nobody.send, changed(spoofed, payload=b"x" * 1_048_577))
    status("INVALID_ARGUMENT", "INVALID_ENVELOPE", A.stub.Send, core_pb2.SendRequest(), metadata=A._metadata())
    # The server's own are nobody's to send.
    for kind in ("SessionSuspend", "SessionResume", "SessionCancel"):
        refused("FORBIDDEN", raw, message_type=kind)
    # Ambient ones have no session; they are not kept, so none is a duplicate.
    refused("INVALID_ENVELOPE", raw, message_type="Signal")
    refused("INVALID_ENVELOPE", raw, message_type="Signal", session_id="", mode="", payload=b"\n\x01 ")
    refused("INVALID_ENVELOPE", raw, message_type="Progress", session_id="")
    refused("FORBIDDEN", client("token-task", "agent://task").send_signal, signal_type="ping")
    for _ in range(2):
        ack = raw(message_type="Signal", session_id="", mode="", message_id="twice")
        assert ack.ok and not ack.duplicate and ack.session_state == OPEN, ack
    # Time.
    short = begin(DecisionSession, ttl_ms=300)
    time.sleep(0.4)
    refused("SESSION_NOT_OPEN", short.propose, "p", "late")
    assert short.metadata().metadata.state == envelope_pb2.SESSION_STATE_EXPIRED


def read(stream, count):
    return [stream.read(timeout=SECONDS) for _ in range(count)]


def history(session):
    """All that is there by now."""
    stream = OBSERVER.open_stream()
    stream.send_subscribe(session.session_id, 0)
    stream._requests.put(stream._END)
    return list(stream.responses(timeout=SECONDS))


def streams():
    session = begin(DecisionSession)
    passive = B.open_stream()
    passive.send_subscribe(session.session_id, 0)
    assert [e.message_type for e in read(passive, 1)] == ["SessionStart"]
    # The sender gets its own envelope back.
    active = A.open_stream()
    errors = []
    active.on_inline_error(errors.append)
    active.send(session._propose_envelope("p1", "x", rationale="", supporting_data=b"", sender=None, auth=None))
    assert read(active, 1)[0].message_type == "Proposal"
    active.send(session._propose_envelope("p1", "twice", rationale="", supporting_data=b"", sender=None, auth=None))
    active.send(session._vote_envelope("p1", "APPROVE", reason="", sender=None, auth=None))
    assert read(active, 1)[0].message_type == "Vote"
    assert [e.code for e in errors] == ["INVALID_ENVELOPE"] and errors[0].session_id == session.session_id, errors
    assert [e.message_type for e in read(passive, 2)] == ["Proposal", "Vote"]
    # Resumed: only what is new.
    passive.close()
    resumed = B.open_stream()
    resumed.send_subscribe(session.session_id, 2)
    session.vote("p1", "APPROVE", auth=AUTH[B])
    later = read(resumed, 2)
    assert [(e.message_type, e.sender) for e in later] == [("Vote", "agent://a"), ("Vote", "agent://b")], later
    # Half-closed: what is there comes, then the end.
    assert [e.message_type for e in history(session)] == ["SessionStart", "Proposal", "Vote", "Vote"]
    # A whole session over one stream, from its start.
    other = DecisionSession(A)
    stream = A.open_stream()
    stream.send(other._start_envelope(
        intent="x", participants=ALL, ttl_ms=60_000, context_id="", extensions=None, roots=None, max_suspend_ms=0,
        sender=None, auth=None,
    ))
    stream.send(other._propose_envelope("p", "x", rationale="", supporting_data=b"", sender=None, auth=None))
    stream.send(other._commit_envelope(
        action="decision.approved", authority_scope="s", reason="r", commitment_id=None, outcome_positive=True,
        sender=None, auth=None,
    ))
    assert [e.message_type for e in read(stream, 3)] == ["SessionStart", "Proposal", "Commitment"]
    # Said at once, everywhere in one order.
    session = begin(DecisionSession, by=B)
    followers = [who.open_stream() for who in (A, B, C)]
    for stream in followers:
        stream.send_subscribe(session.session_id, 0)
    own = {who: [session._propose_envelope(str(uuid.uuid4()), "x", auth=AUTH[who]) for _ in range(5)] for who in AUTH}
    talkers = [threading.Thread(target=lambda who=who: [who.send(e) for e in own[who]]) for who in AUTH]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    order = [(e.sender, e.message_id) for e in history(session)][1:]
    for who, envelopes in own.items():
        assert [sent for sender, sent in order if sender == who.auth.sender] == [e.message_id for e in envelopes], order
    for stream in followers:
        assert [(e.sender, e.message_id) for e in read(stream, 16)][1:] == order
        stream.close()


class Talk:
    """A stream on which one thing is refused and another is not."""

    def __init__(self, who, session):
        self.stream, self.session, self.errors = who.open_stream(), session, []
        self.stream.on_inline_error(self.errors.append)

    def refused(self, code, frame):
        """Refused within the stream."""
        before = len(self.errors)
        self.stream.send(frame)
        until(lambda: len(self.errors) > before)
        error = self.errors[before]
        expected = (code, self.session.session_id, getattr(frame, "message_id", ""))
        assert (error.code, error.session_id, error.message_id) == expected, (expected, error)
        return error

    def taken(self, envelope):
        """Comes back, and nothing before it."""
        self.stream.send(envelope)
        back, = read(self.stream, 1)
        assert back.message_id == envelope.message_id, (envelope, back)
        return back


def frames():
    """What ends a stream, and after what it goes on."""
    bad, task = ("INVALID_ARGUMENT", "INVALID_ENVELOPE"), TaskSession.MODE
    session, other, over = (begin(DecisionSession, by=B) for _ in range(3))
    over.cancel(reason="over")
    def subscribe(to, **more):
        return core_pb2.StreamSessionRequest(subscribe_session_id=to.session_id, **more)
    def propose(to=session):
        return to._propose_envelope(str(uuid.uuid4()), "x")
    ends(*bad, subscribe(session, envelope=propose()))
    ends(*bad, core_pb2.StreamSessionRequest())
    ends("NOT_FOUND", "SESSION_NOT_FOUND", subscribe(DecisionSession(B)))
    # What is said on a stream is for one session, in its mode, as long as that is open.
    kept = [propose() for _ in range(3)]
    ends(*bad, subscribe(session), subscribe(other))
    ends(*bad, subscribe(session), propose(other))
    ends(*bad, kept[0], subscribe(other))
    ends(*bad, kept[1], propose(other))
    ends(*bad, kept[2], changed(propose(), mode=task))
    ends(*bad, changed(propose(), mode=task))
    assert str(ends(*bad, propose(over))) == "SESSION_NOT_OPEN"
    assert str(ends(*bad, subscribe(over), propose(over))) == "SESSION_NOT_OPEN"
    other.suspend(reason="a pause")
    assert str(ends(*bad, propose(other))) == "SESSION_NOT_OPEN"
    ends(*bad, build_envelope(mode="", message_type="Signal", session_id="", sender="", payload=b""))
    # These end it with their own codes.
    ends("UNAUTHENTICATED", "UNAUTHENTICATED", changed(propose(), sender="agent://a"))
    ends("RESOURCE_EXHAUSTED", "PAYLOAD_TOO_LARGE", changed(propose(), payload=b"x" * 1_048_577))
    ends("INVALID_ARGUMENT", "INVALID_SESSION_ID", start_of(B, "short"))
    ends("INVALID_ARGUMENT", "INVALID_POLICY_DEFINITION", start_of(B, mode=task, policy_version="policy.std.majority"))
    ends("ALREADY_EXISTS", "SESSION_ALREADY_EXISTS", start_of(B, session.session_id))
    # Half-closed: what was said comes back, then the end.
    stream, more = B.open_stream(), [propose() for _ in range(3)]
    for envelope in more:
        stream.send(envelope)
    stream._requests.put(stream._END)
    assert [e.message_id for e in stream.responses(timeout=SECONDS)] == [e.message_id for e in more]
    # Nothing of what was refused is there.
    assert [e.message_id for e in history(session)][1:] == [e.message_id for e in (*kept, *more)]
    assert len(history(other)) == 1 and len(history(over)) == 1
    # Who may not read it, and who may read it only.
    stranger = Talk(MANAGER, session)
    for _ in range(2):
        stranger.refused("FORBIDDEN", subscribe(session))
    stranger.refused("FORBIDDEN", changed(propose(), sender=""))
    reader = Talk(OBSERVER, session)
    reader.refused("FORBIDDEN", changed(propose(), sender=""))
    reader.stream.send(subscribe(session, after_sequence=6))
    assert read(reader.stream, 1)[0].message_id == more[-1].message_id
    for talk in (stranger, reader):
        talk.stream.close()

    # Refused within the stream, which goes on.
    session = DecisionSession(B, policy_version="policy.std.unanimous")
    sid, talk = session.session_id, Talk(B, session)
    talk.refused("SESSION_NOT_FOUND", propose(session))
    talk.refused("MODE_NOT_SUPPORTED", start_of(B, sid, mode="macp.mode.none.v1"))
    talk.refused("UNKNOWN_POLICY_VERSION", start_of(B, sid, policy_version="policy.none"))
    talk.refused("INVALID_ENVELOPE", start_of(B, sid, ttl_ms=0))
    talk.taken(start_of(B, sid, policy_version=session.policy_version, ttl_ms=60_000))
    proposal = session._propose_envelope("p", "x")
    talk.refused("UNSUPPORTED_PROTOCOL_VERSION", changed(proposal, macp_version="2.0"))
    for change in (dict(message_type=""), dict(message_id=""), dict(payload=b"\xff\xff")):
        talk.refused("INVALID_ENVELOPE", changed(proposal, **change))
    talk.taken(proposal)
    # The same again yields nothing; who says it is known without being named.
    talk.stream.send(proposal)
    assert talk.taken(changed(session._vote_envelope("p", "APPROVE"), sender="")).sender == "agent://b"
    commitment = session._commit_envelope(
        action="decision.approved", authority_scope="s", reason="r", commitment_id=None, outcome_positive=True,
        sender=None, auth=None,
    )
    details = json.loads(talk.refused("POLICY_DENIED", commitment).details)
    assert len(details["reasons"]) == 1 and [d["code"] for d in details["denials"]] == ["threshold_not_met"], details
    guest = Talk(C, session)
    guest.refused("FORBIDDEN", changed(commitment, sender="", message_id=str(uuid.uuid4())))
    guest.taken(session._vote_envelope("p", "APPROVE", auth=AUTH[C]))
    session.vote("p", "APPROVE", auth=AUTH[A])
    assert [e.sender for e in read(talk.stream, 2)] == ["agent://c", "agent://a"]
    talk.taken(commitment)
    assert [e.message_type for e in read(guest.stream, 2)] == ["Vote", "Commitment"]
    # The stream outlasts its session, and a subscription may follow what was said.
    for after in (0, 4):
        talk.stream.send(subscribe(session, after_sequence=after))
        types = ["SessionStart", "Proposal", "Vote", "Vote", "Vote", "Commitment"][after:]
        assert [e.message_type for e in read(talk.stream, len(types))] == types
    assert len(talk.errors) == 9 and len(guest.errors) == 1, (talk.errors, guest.errors)
    for talk in (talk, guest):
        talk.stream.close()


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


class Watched:
    """Collects what a watch yields."""

    def __init__(self, items):
        self.items, self.error = [], None
        self.thread = threading.Thread(target=self._run, args=(items,), daemon=True)
        self.thread.start()

    def _run(self, items):
        try:
            for item in items:
                self.items.append(item)
        except Exception as error:  # noqa: BLE001
            self.error = error

    def wait(self, condition):
        until(lambda: self.error or condition(self.items))
        assert self.error is None, self.error


def watches():
    before = begin(DecisionSession)
    sessions = Watched(OBSERVER.watch_sessions(timeout=60))
    sessions.wait(lambda items: any(i.event.session.session_id == before.session_id for i in items))
    signals = Watched(OBSERVER.watch_signals(timeout=60))
    roots = Watched(A.watch_roots(timeout=60))
    registry = Watched(A.watch_mode_registry(timeout=60))
    policies = Watched(A.watch_policies(timeout=60))
    for watch in (roots, registry, policies):
        watch.wait(lambda items: len(items) == 1)
    assert len(policies.items[0].descriptors) >= 4 and registry.items[0].change.registry == "modes"

    session = decide()
    session.suspend(reason="a pause")
    session.resume(reason="on")
    done(session, "decision.approved")
    before.cancel(reason="enough")
    kind = core_pb2.SessionLifecycleEvent.EventType
    def kinds(sid):
        return [kind.Name(i.event.event_type) for i in sessions.items if i.event.session.session_id == sid]
    expected = [f"EVENT_TYPE_{what}" for what in ("CREATED", "SUSPENDED", "RESUMED", "RESOLVED")]
    sessions.wait(lambda items: kinds(session.session_id) == expected)
    sessions.wait(lambda items: kinds(before.session_id) == ["EVENT_TYPE_CREATED", "EVENT_TYPE_CANCELLED"])

    # A watch is live once its headers are there; signals have nothing to wait for.
    def heard(items):
        A.send_signal(signal_type="ping", data=b"1", confidence=0.5)
        return any(i.envelope.message_type == "Signal" and i.sender_authenticated for i in items)
    signals.wait(heard)
    A.send_progress(session_id=before.session_id, mode=before.MODE, progress_token="t", progress=1.0, total=2.0)
    signals.wait(lambda items: any(i.envelope.message_type == "Progress" for i in items))

    descriptor = core_pb2.ModeDescriptor(
        mode="ext.show.v1", mode_version="1.0.0", title="show", message_types=["SessionStart", "Note", "Commitment"],
        terminal_message_types=["Commitment"],
    )
    status("PERMISSION_DENIED", "FORBIDDEN", A.register_ext_mode, descriptor)
    assert MANAGER.register_ext_mode(descriptor).ok
    registry.wait(lambda items: len(items) == 2)
    assert "ext.show.v1" in [m.mode for m in A.list_ext_modes().modes]
    promoted = MANAGER.promote_mode("ext.show.v1", "show.v1")
    assert promoted.ok and promoted.mode == "show.v1", promoted
    assert [m.mode for m in A.list_modes().modes][-1] == "show.v1"
    registry.wait(lambda items: len(items) == 3)

    policy = build_decision_policy("policy.show", "watched", voting=VotingRules(algorithm="majority"))
    MANAGER.register_policy(policy)
    policies.wait(lambda items: any(p.policy_id == "policy.show" for p in items[-1].descriptors))
    MANAGER.unregister_policy("policy.show")
    policies.wait(lambda items: all(p.policy_id != "policy.show" for p in items[-1].descriptors))


def definitions():
    """Which policies are refused, and which are not."""
    def register(rules, mode="decision", **changes):
        fields = dict(
            policy_id="policy.tried", mode=mode if mode == "*" else f"macp.mode.{mode}.v1",
            rules=rules if isinstance(rules, str) else json.dumps(rules), schema_version=1,
        )
        fields.update(changes)
        return MANAGER.register_policy(policy_pb2.PolicyDescriptor(**fields))
    def voting(**rules):
        return {"voting": rules}
    bad = [
        *(({}, dict(policy_id=name)) for name in ("", " ", "policy.default", "policy.std.majority", "policy.std.mine")),
        *(({}, dict(schema_version=version)) for version in (0, 4)),
        *((rules, {}) for rules in (
            [], {"votes": {}}, {"voting": []}, {"x-com.example.audit": {}}, voting(treshold=0.5),
            voting(algorithm="most"), voting(algorithm=1), voting(threshold="half"), voting(threshold=0),
            voting(threshold=1.1), voting(algorithm="majority", threshold=0.4),
            voting(algorithm="supermajority", threshold=0.5),
            # It must say how much more than half.
            voting(algorithm="supermajority"),
            voting(algorithm="weighted"), voting(algorithm="weighted", weights={}), voting(weights={"agent://a": 0}),
            voting(quorum={"type": "some"}), voting(quorum={"value": -1}),
            {"objection_handling": {"veto_threshold": 0}}, {"objection_handling": {"critical_objection_action": "wait"}},
            {"evaluation": {"minimum_confidence": 1.1}}, {"commitment": {"authority": "anyone"}},
            {"commitment": {"authority": "designated_role", "designated_roles": []}},
        )),
        *((rules, dict(mode=mode)) for mode, rules in (
            ("proposal", {"acceptance": {"criterion": "any"}}), ("proposal", voting(algorithm="none")),
            ("task", {"completion": {"require_output": "yes"}}),
            ("handoff", {"acceptance": {"implicit_accept_timeout_ms": -1}}),
            ("quorum", {"threshold": {"value": 0}}), ("quorum", {"threshold": {"type": "percentage", "value": 101}}),
            ("quorum", {"abstention": {"interpretation": "yes"}}), ("*", {"votes": {}}), ("*", voting(algorithm="most")),
        )),
    ]
    for rules, changes in bad:
        answer = register(rules, **changes)
        assert not answer.ok and answer.error.startswith("INVALID_POLICY_DEFINITION"), (rules, changes, answer)
    # Notes are no rules, and a text that is no JSON has none.
    noted = {"_note": 1, "$schema": "x", "voting": {"_why": "so"}}
    for rules in (noted, "", "no rules", voting(algorithm="majority", threshold=0.5)):
        assert register(rules, schema_version=3).ok, rules
        assert MANAGER.unregister_policy("policy.tried").ok, rules


def policies():
    strict = build_decision_policy(
        "policy.strict", "majority of two", voting=VotingRules(algorithm="majority", quorum_type="count", quorum_value=2),
        commitment=CommitmentRules(authority="any_participant", require_vote_quorum=True),
    )
    status("PERMISSION_DENIED", "FORBIDDEN", A.register_policy, strict)
    MANAGER.register_policy(strict)
    assert A.get_policy("policy.strict").policy_descriptor.mode == "macp.mode.decision.v1"
    again = MANAGER.register_policy(strict)
    assert not again.ok and again.error and not again.error.startswith("INVALID_POLICY_DEFINITION"), again
    listed, task = [p.policy_id for p in A.list_policies().descriptors], A.list_policies(TaskSession.MODE).descriptors
    assert listed == sorted(listed) and "policy.strict" in listed
    assert "policy.default" in [p.policy_id for p in task] and {p.mode for p in task} <= {"*", TaskSession.MODE}, task
    status("PERMISSION_DENIED", "FORBIDDEN", A.unregister_policy, "policy.strict")
    standard = [f"policy.std.{which}" for which in ("majority", "supermajority", "unanimous")]
    for name in ("policy.default", *standard, "policy.none"):
        gone = MANAGER.unregister_policy(name)
        assert not gone.ok and gone.error, (name, gone)
    assert [p.policy_id for p in A.list_policies().descriptors] == listed
    definitions()
    status("NOT_FOUND", "UNKNOWN_POLICY_VERSION", A.get_policy, "policy.none")
    session = begin(DecisionSession, policy="policy.strict")
    # The session keeps its policy.
    MANAGER.unregister_policy("policy.strict")
    session.propose("p", "x")
    session.vote("p", "APPROVE")
    error = refused("POLICY_DENIED", session.commit, action="decision.approved", authority_scope="s", reason="r")
    assert len(error.failure.reasons) == 1 and [d.code for d in error.failure.denials] == ["quorum_not_met"], error.failure
    session.vote("p", "APPROVE", auth=AUTH[B])
    ack = session.commit(action="decision.approved", authority_scope="s", reason="r", auth=AUTH[B])
    assert ack.session_state == RESOLVED, ack
    outcome = A.what_if_replay(session.session_id, A.get_policy("policy.std.unanimous").policy_descriptor)
    assert len(outcome.entries) == 5 and outcome.first_divergence == 4, outcome
    assert outcome.entries[4].candidate.error_code == "FORBIDDEN", outcome
    receipt = A.get_decision_receipt(session.session_id)
    assert receipt.raw == B.get_decision_receipt(session.session_id).raw
    assert json.loads(receipt.raw)["commitment"]["action"] == "decision.approved"
    assert A.get_receipt_keys() is not None
    open_one = begin(DecisionSession)
    status("FAILED_PRECONDITION", "RECEIPT_UNAVAILABLE", A.get_decision_receipt, open_one.session_id)
    # A policy under which the server speaks for the target.
    implicit = build_handoff_policy(
        "policy.implicit", "at once", acceptance=HandoffAcceptanceRules(implicit_accept_timeout_ms=200)
    )
    MANAGER.register_policy(implicit)
    handoff = begin(HandoffSession, policy="policy.implicit")
    handoff.offer("h", "agent://b")
    stream = B.open_stream()
    stream.send_subscribe(handoff.session_id, 2)
    accept = stream.read(timeout=SECONDS)
    assert (accept.message_type, accept.message_id) == ("HandoffAccept", "implicit-accept:h"), accept
    done(handoff, "handoff.accepted")


def suspension():
    session = begin(DecisionSession, ttl_ms=60_000)
    before = session.metadata().metadata.expires_at_unix_ms
    assert session.suspend(reason="wait").session_state == envelope_pb2.SESSION_STATE_SUSPENDED
    refused("SESSION_NOT_OPEN", session.propose, "p", "x")
    refused("SESSION_NOT_OPEN", session.suspend, reason="twice")
    time.sleep(0.2)
    assert session.resume(reason="on").session_state == OPEN
    refused("SESSION_NOT_OPEN", session.resume, reason="twice")
    assert session.metadata().metadata.expires_at_unix_ms >= before + 200
    session.propose("p", "x")
    assert session.cancel(reason="over").session_state == envelope_pb2.SESSION_STATE_CANCELLED
    assert session.cancel(reason="again").session_state == envelope_pb2.SESSION_STATE_CANCELLED
    # Suspended for too long.
    short = begin(DecisionSession, max_suspend_ms=50)
    short.suspend(reason="wait")
    time.sleep(0.1)
    refused("SESSION_NOT_OPEN", short.resume, reason="late")
    assert short.metadata().metadata.state == envelope_pb2.SESSION_STATE_EXPIRED


def lists():
    ids = sorted(begin(DecisionSession).session_id for _ in range(5))
    found, token, pages = [], "", 0
    while True:
        batch, token = A.list_sessions_page(page_size=2, page_token=token)
        found += [s.session_id for s in batch]
        pages += 1
        if not token:
            break
    assert found == sorted(found) and set(ids) <= set(found) and pages >= 3
    status("INVALID_ARGUMENT", "INVALID_REQUEST", A.list_sessions_page, page_token="nonsense")
    status("INVALID_ARGUMENT", "INVALID_REQUEST", A.list_sessions_page, page_size=-1)


def limits():
    # Last: it uses this sender's minute up.
    busy = client("token-busy", "agent://busy")
    sent, most = 0, 600 * len(ADDRESSES)
    # Each node counts for itself, at most.
    while sent <= most:
        try:
            busy.send_signal(signal_type="ping")
        except MacpAckError as error:
            assert error.failure.code == "RATE_LIMITED", error.failure
            break
        sent += 1
    assert 600 <= sent <= most, sent
    print(f"limits: {sent} signals of one sender over {len(ADDRESSES)} nodes, then refused, 0.0 s")


def across():
    """From each node to each other: a policy, a session, a signal and a stop of one is there on the other at once."""
    kind = core_pb2.SessionLifecycleEvent.EventType
    for here in ADDRESSES:
        lead, manager = client("token-a", "agent://a", here), client("token-manager", "agent://manager", here)
        for there in ADDRESSES:
            peer = client("token-b", "agent://b", there)
            watcher = client("token-observer", "agent://observer", there)
            signals, lifecycle = Watched(watcher.watch_signals(timeout=60)), Watched(watcher.watch_sessions(timeout=60))
            policies = Watched(watcher.watch_policies(timeout=60))
            policies.wait(lambda items: len(items) == 1)

            name = f"policy.{uuid.uuid4()}"
            manager.register_policy(build_decision_policy(
                name, "at once", voting=VotingRules(algorithm="unanimous"), commitment=CommitmentRules(authority="any_participant"),
            ))
            assert peer.get_policy(name).policy_descriptor.policy_id == name
            assert name in [p.policy_id for p in peer.list_policies().descriptors]
            session = DecisionSession(peer, policy_version=name)
            assert session.start(intent="across", participants=ALL[:2], ttl_ms=60_000).ok
            sid = session.session_id
            # The other's stream is there before anything is said, and a message names what came just before.
            stream = lead.open_stream()
            stream.send_subscribe(sid, 0)
            assert read(stream, 1)[0].message_type == "SessionStart"
            mine = DecisionSession(lead, session_id=sid, policy_version=name)
            mine.propose("p", "x")
            session.vote("p", "APPROVE")
            refused("POLICY_DENIED", session.commit, action="decision.approved", authority_scope="s", reason="one of two")
            mine.vote("p", "APPROVE")
            assert sid in [s.session_id for s in peer.list_sessions()]
            # Only its initiator may, or whom the policy lets.
            assert mine.suspend(reason="a pause").session_state == envelope_pb2.SESSION_STATE_SUSPENDED
            refused("SESSION_NOT_OPEN", session.propose, "q", "too late")
            assert session.resume(reason="on").session_state == OPEN
            assert mine.commit(action="decision.approved", authority_scope="s", reason="both").session_state == RESOLVED
            assert peer.get_session(sid).metadata.state == RESOLVED
            assert [e.message_type for e in read(stream, 4)] == ["Proposal", "Vote", "Vote", "Commitment"]
            stream.close()

            expected = [f"EVENT_TYPE_{what}" for what in ("CREATED", "SUSPENDED", "RESUMED", "RESOLVED")]
            def seen(items):
                return [kind.Name(i.event.event_type) for i in items if i.event.session.session_id == sid]
            lifecycle.wait(lambda items: seen(items) == expected)
            # A watch is live once its headers are there; signals have nothing to wait for.
            def live(items):
                lead.send_signal(signal_type="ping")
                return items
            signals.wait(live)
            lead.send_signal(signal_type=name)
            signals.wait(lambda items: any(name.encode() in i.envelope.payload for i in items))
            assert sum(name.encode() in i.envelope.payload for i in signals.items) == 1
            assert all(i.sender_authenticated for i in signals.items)

            manager.unregister_policy(name)
            status("NOT_FOUND", "UNKNOWN_POLICY_VERSION", peer.get_policy, name)
            policies.wait(lambda items: [name in [p.policy_id for p in i.descriptors] for i in items][-2:] == [True, False])
            peer.close()
            watcher.close()
        lead.close()
        manager.close()


def write():
    session = decide()
    ended = done(decide(), "decision.approved")
    with open(sys.argv[3], "w") as notes:
        json.dump({"open": session.session_id, "ended": ended.session_id}, notes)


def again():
    with open(sys.argv[3]) as notes:
        noted = json.load(notes)
    for sid, state, count in ((noted["open"], OPEN, 6), (noted["ended"], RESOLVED, 7)):
        metadata = A.get_session(sid).metadata
        assert metadata.state == state, metadata
        assert sum(a.message_count for a in metadata.participant_activity) == count - 1
        stream = OBSERVER.open_stream()
        stream.send_subscribe(sid, 0)
        types = [e.message_type for e in read(stream, count)]
        assert types[0] == "SessionStart" and len(types) == count, types
        stream.close()
    session = DecisionSession(A, session_id=noted["open"])
    ack = session.commit(action="decision.approved", authority_scope="s", reason="r")
    assert ack.session_state == RESOLVED, ack
    assert A.get_policy("policy.implicit").policy_descriptor.mode == "macp.mode.handoff.v1"


def gone():
    """Nothing of what `write` noted is there."""
    with open(sys.argv[3]) as notes:
        noted = json.load(notes)
    for sid in noted.values():
        status("NOT_FOUND", "SESSION_NOT_FOUND", A.get_session, sid)
    assert not OBSERVER.list_sessions()


def fixed():
    """Policies are those of files."""
    answer = A.stub.Initialize(core_pb2.InitializeRequest(supported_protocol_versions=["1.0"]))
    can = answer.capabilities.policy_registry
    assert can.list_policies and not can.register_policy, can
    listed = [p.policy_id for p in A.list_policies().descriptors]
    assert "policy.board" in listed and "policy.default" in listed, listed
    board = A.get_policy("policy.board").policy_descriptor
    board.policy_id = "policy.other"
    for call, what in ((MANAGER.register_policy, board), (MANAGER.unregister_policy, "policy.board")):
        assert refused("FAILED_PRECONDITION", call, what).macp_code == "REGISTRY_READ_ONLY"
    assert [p.policy_id for p in A.list_policies().descriptors] == listed
    session = begin(DecisionSession, policy="policy.board")
    session.propose("p", "x")
    session.vote("p", "APPROVE")
    session.vote("p", "REJECT", auth=AUTH[B])
    refused("POLICY_DENIED", session.commit, action="decision.approved", authority_scope="s", reason="half of them")


def tls():
    """The file is the certificate; a plain-text client gets nowhere."""
    with open(sys.argv[3], "rb") as pem:
        certificate = pem.read()
    auth = AuthConfig.for_bearer("token-a", sender_hint="agent://a")
    safe = MacpClient(target=ADDRESS, root_certificates=certificate, auth=auth, default_timeout=SECONDS)
    assert safe.initialize().selected_protocol_version == "1.0"
    session = DecisionSession(safe)
    assert session.start(intent="x", participants=["agent://a"], ttl_ms=1000).ok
    # Health and reflection, by hand: the messages are small.
    channel = grpc.secure_channel(ADDRESS, grpc.ssl_channel_credentials(certificate))
    for name in (b"", b"\n\x1amacp.v1.MACPRuntimeService"):
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(name, timeout=SECONDS) == b"\x08\x01"
    reflection = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    assert b"macp.v1.MACPRuntimeService" in next(reflection(iter([b"\x3a\x00"]), timeout=SECONDS))
    # Bytes that are no message, and one that is too large.
    for body, code in ((b"\xff\xff\xff", "INTERNAL"), (b"\n\xff\xff\x7f" + b"x" * 2097151, "OUT_OF_RANGE")):
        try:
            channel.unary_unary("/macp.v1.MACPRuntimeService/Send")(body, timeout=SECONDS)
            raise AssertionError("accepted")
        except grpc.RpcError as error:
            assert error.code().name == code, error
    try:
        A.initialize(timeout=2)
        raise AssertionError("plain text is served beside TLS")
    except grpc.RpcError:
        pass


def load():
    """Sends without end and notes what was acknowledged, until the node is gone."""
    notes = open(sys.argv[3], "a", buffering=1)
    def one(n):
        own = client(f"token-load-{n}", f"agent://load-{n}")
        session = DecisionSession(own, session_id=str(uuid.uuid4()))
        try:
            session.start(intent="load", participants=[own.auth.sender], ttl_ms=600_000)
            for m in range(590):
                envelope = session._propose_envelope(
                    f"p{m}", "x", rationale="", supporting_data=b"", sender=None, auth=None
                )
                ack = own.send(envelope)
                assert ack.ok and not ack.duplicate, ack
                notes.write(f"{session.session_id} {envelope.message_id}\n")
        except (grpc.RpcError, MacpTransportError):
            pass
    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def steady():
    """Follows a session and sends to it, until the file is there, whatever becomes of its owner."""
    session = begin(DecisionSession, ttl_ms=600_000)
    followers = [B.open_stream() for _ in range(10)]
    for stream in followers:
        stream.send_subscribe(session.session_id, 0)
        assert read(stream, 1)[0].message_type == "SessionStart"
    print("following", flush=True)
    sent = []
    while not os.path.exists(sys.argv[3]):
        assert len(sent) < 550, "nobody made an end"
        name = f"p{len(sent)}"
        envelope = session._propose_envelope(name, "x", rationale="", supporting_data=b"", sender=None, auth=None)
        # The same message again, if it is not known what became of it.
        for _ in range(100):
            ack = A.send(envelope, raise_on_nack=False)
            if ack.ok:
                break
            assert ack.error.code == "INTERNAL_ERROR", ack
            time.sleep(0.05)
        assert ack.ok, ack
        sent.append(envelope.message_id)
        if len(sent) % 10 == 0:
            print(f"sent {len(sent)}", flush=True)
        time.sleep(0.01)
    for stream in followers:
        assert [e.message_id for e in read(stream, len(sent))] == sent
    print(f"steady: {len(sent)} envelopes, each once and in order on {len(followers)} streams, 0.0 s")


def verify():
    """All that was acknowledged is there, each once."""
    acknowledged = {}
    with open(sys.argv[3]) as notes:
        for line in notes:
            # The last line may have been cut off with its writer.
            words = line.split()
            if line.endswith("\n") and len(words) == 2:
                acknowledged.setdefault(words[0], []).append(words[1])
    lost = more = 0
    for sid, ids in acknowledged.items():
        there = [e.message_id for e in history(DecisionSession(OBSERVER, session_id=sid))]
        assert len(there) == len(set(there)), "an envelope is there twice"
        lost += len(set(ids) - set(there))
        more += len(there) - 1 - len(ids)
    total = sum(len(ids) for ids in acknowledged.values())
    print(f"verify: {total} acknowledged, {lost} lost, {more} more there than acknowledged, 0.0 s")
    assert lost == 0


STEPS = {
    "all": [negotiation, modes, refusals, streams, frames, watches, policies, suspension, lists, limits],
    "write": [write],
    "read": [again],
    "load": [load],
    "verify": [verify],
    "tls": [tls],
    "steady": [steady],
    "across": [across],
    "gone": [gone],
    "fixed": [fixed],
}

if sys.argv[1] != "tls":
    assert "1.0" == A.initialize().selected_protocol_version
for step in STEPS[sys.argv[1]]:
    started = time.monotonic()
    step()
    print(f"{step.__name__}: {time.monotonic() - started:.2f} s", flush=True)

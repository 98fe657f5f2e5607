//! Tests of hashes against published vectors, and of receipts.

use prost::Message as _;
use weft_macp::macp::v1::CommitmentRef;

use super::*;
use crate::kernel::rig::*;

#[test]
fn the_hash_of_the_specification_comes_out() {
    let payload = CommitmentPayload {
        commitment_id: "c-1".into(),
        action: "decision.approved".into(),
        authority_scope: "fleet".into(),
        reason: "two of three".into(),
        mode_version: "1.0.0".into(),
        policy_version: "policy.default".into(),
        configuration_version: "config.default".into(),
        outcome_positive: true,
        supersedes: None,
    };
    assert_eq!(
        commitment_hash(&payload.encode_to_vec()).as_deref(),
        Ok("sha256:17b1cb9a38e9bace2a8b03d47a877506293871487255d224456185f3d2254060")
    );
}

#[test]
fn escapes_and_an_empty_reference_hash_as_published() {
    let payload = CommitmentPayload {
        commitment_id: "c5".into(),
        action: "decision.\"appro\\ved\"".into(),
        authority_scope: "caf\u{e9}".into(),
        reason: "r\u{e9}\tsum\u{e9}\n\u{2014} na\u{ef}ve \u{1f702}".into(),
        mode_version: "macp.mode.decision.v1".into(),
        policy_version: "1.0.0".into(),
        configuration_version: "1.0.0".into(),
        outcome_positive: false,
        supersedes: None,
    };
    assert_eq!(
        commitment_hash(&payload.encode_to_vec()).as_deref(),
        Ok("sha256:03f8ac2b8172958504092ce9fe5154dbcfe300fd30a350453d4e4bd715822ab2")
    );
    let empty = CommitmentPayload {
        supersedes: Some(CommitmentRef::default()),
        ..CommitmentPayload::default()
    };
    assert_eq!(
        commitment_hash(&empty.encode_to_vec()).as_deref(),
        Ok("sha256:9776c22ef165f26817f89bb456cf6bc56a659eb1561a576f6ea9a435bd3291d7")
    );
}

#[test]
fn fields_that_the_hash_does_not_cover_have_none() {
    let mut payload = commitment(true).encode_to_vec();
    payload.extend_from_slice(b"\x52\x01x");
    assert_eq!(commitment_hash(&payload), Err(ReceiptError::Field(10)));
    // Field 3 within the reference.
    assert_eq!(commitment_hash(b"\x4a\x03\x1a\x01x"), Err(ReceiptError::Field(3)));
    assert!(matches!(commitment_hash(b"\xff"), Err(ReceiptError::Payload(_))));
}

#[test]
fn base64_and_dates_are_the_usual_ones() {
    for (bytes, standard, url) in [
        (&b""[..], "", ""),
        (b"f", "Zg==", "Zg"),
        (b"fo", "Zm8=", "Zm8"),
        (b"foo", "Zm9v", "Zm9v"),
        (b"\xfb\xff\xfe", "+//+", "-__-"),
    ] {
        assert_eq!(base64(bytes, STANDARD), standard);
        assert_eq!(base64(bytes, URL), url);
    }
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    assert_eq!(rfc3339(951_782_400_999), "2000-02-29T00:00:00Z");
    assert_eq!(rfc3339(1_800_000_000_000), "2027-01-15T08:00:00Z");
    assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
}

#[test]
fn a_receipt_is_canonical_and_its_signature_covers_all_but_itself() {
    let mut rig = Rig::with("macp.mode.decision.v1", &["a"]);
    rig.ok("a", "Proposal", &option("p"));
    assert_eq!(
        Receipt::new(rig.session(), "r1", T0).expect_err("open").code,
        Code::ReceiptUnavailable
    );
    rig.commit(true).expect("resolves");
    let receipt = Receipt::new(rig.session(), "r1", T0).expect("a receipt");
    let unsigned = receipt.unsigned();
    assert!(unsigned.starts_with(r#"{"attestations":[],"commitment":{"action":"it.approved","#));
    assert!(unsigned.contains(r#""issued_at":"2027-01-15T08:00:00Z","issuer":"runtime:r1""#));
    let document: Value = serde_json::from_str(&unsigned).expect("JSON");
    let payload = commitment(true).encode_to_vec();
    assert_eq!(document["commitment_wire_b64"], base64(&payload, STANDARD));
    assert_eq!(document["commitment_hash"], commitment_hash(&payload).expect("a hash"));
    assert!(document["commitment"].get("supersedes").is_none());
    let input = receipt.signing_input("k1");
    let (header, body) = input.split_once('.').expect("two parts");
    assert_eq!(header, base64(br#"{"alg":"EdDSA","kid":"k1"}"#, URL));
    let bare = unsigned.replacen(r#""attestations":[],"#, "", 1);
    assert_eq!(body, base64(bare.as_bytes(), URL));
    let signed: Value = serde_json::from_str(&receipt.signed("k1", b"sig")).expect("JSON");
    assert_eq!(signed["attestations"][0]["type"], "jws");
    assert_eq!(signed["attestations"][0]["jws"], format!("{header}..{}", base64(b"sig", URL)));
}

#[test]
fn the_first_receipt_of_a_session_stays() {
    let mut rig = Rig::with("macp.mode.decision.v1", &["a"]);
    rig.ok("a", "Proposal", &option("p"));
    rig.commit(true).expect("resolves");
    for json in ["first", "second"] {
        let known = crate::kernel::Known {
            sessions: &rig.sessions,
            catalogue: &rig.catalogue,
            archived: None,
        };
        let entry = rig.speculation.receipt(known, ID, json.into(), rig.now).expect("an entry");
        rig.apply(entry);
        assert_eq!(rig.session().receipt(), Some("first"));
    }
    assert_eq!(rig.session().last_ordinal(), 3, "it takes no ordinal");
}

#[test]
fn extension_modes_have_no_receipts() {
    let mut rig = Rig::with("ext.multi_round.v1", &["a"]);
    rig.ok("a", "Contribute", &contribute("x"));
    rig.commit(true).expect("resolves");
    let refusal = Receipt::new(rig.session(), "r1", T0).expect_err("none");
    assert_eq!(refusal.code, Code::ReceiptUnavailable);
}

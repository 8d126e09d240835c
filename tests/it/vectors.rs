//! Holds the edge's verifier against vectors that no one here wrote, or against cases of our
//! own where none are given.
//!
//! `PORTCULLIS_VECTORS=<file>`: a file in the form of C2SP/x509-limbo. Without it the cases of
//! `minted` run. A case that the verifier decides otherwise than the vector expects is a
//! deviation: `LAX` where it accepts what should fail, `STRICT` where it refuses what should
//! pass. `tests/vectors/deviations.txt` lists the accepted ones with their reasons, and is
//! held both ways.

#![expect(clippy::print_stdout, reason = "the deviations are what this test is read for")]

mod minted;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis::clock::Clock;
use portcullis::refusal::{Refusal, Refused};
use portcullis::trust::{
    Anchor, MAX_INTERMEDIATES, MaterialKind, PathVerdict, TrustFault, TrustMaterial, TrustStore,
    Verdict,
};
use serde::Deserialize;
use time::{Date, Month, Time};

use crate::pki::{COMMON_NAME, ORGANIZATION, Template};

#[test]
fn vectors() {
    let cases = match std::env::var_os("PORTCULLIS_VECTORS") {
        Some(file) => limbo(Path::new(&file)),
        None => minted::cases(),
    };
    let accepted = accepted_deviations();
    let mut problems = Vec::new();
    let (mut agree, mut lax, mut strict) = (0, 0, 0);
    for case in &cases {
        let outcome = case.run();
        let deviation = match (case.expect, &outcome) {
            (Expect::Success, Outcome::Accepted) => None,
            (_, Outcome::Accepted) => Some(("LAX", "accepted".to_owned())),
            (Expect::Success, told) => Some(("STRICT", told.to_string())),
            (expect, told) => {
                // Refused, as it should be. Our own cases say for what, too.
                if !expect.is_met_by(told) {
                    problems.push(format!("{}: {expect:?} expected, got {told:?}", case.id));
                }
                None
            }
        };
        let listed = accepted.get(case.id.as_str());
        match &deviation {
            None => agree += 1,
            Some((kind, reason)) => {
                println!("{kind} {} {reason}", case.id);
                *(if *kind == "LAX" { &mut lax } else { &mut strict }) += 1;
            }
        }
        match (&deviation, listed) {
            (Some((kind, _)), Some(known)) if kind == known => {}
            (None, None) => {}
            (Some((kind, _)), _) => problems.push(format!("{kind} {} is not listed", case.id)),
            (None, Some(known)) => {
                problems.push(format!("{known} {} is listed and has gone", case.id));
            }
        }
    }
    println!("vectors: {agree} agree, {lax} lax, {strict} strict, {} total", cases.len());
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn an_identity_is_one_common_name_in_a_plain_string_type() {
    let root = Template::ca("Root").self_signed();
    let verify = |attributes: &[(&str, u8, &[u8])]| {
        let device = Template::device("").subject(attributes).signed_by(&root);
        let anchors = vec![Anchor { der: root.der.clone(), ..Anchor::default() }];
        let store =
            TrustStore::build(TrustMaterial { anchors, ..TrustMaterial::default() }).unwrap();
        store.verify(&[&device.der], &[], minted::NOW)
    };
    for tag in [0x0c, 0x13, 0x16] {
        let subject: &[(&str, u8, &[u8])] =
            &[(ORGANIZATION, 0x0c, "B\u{fc}ro\r\n".as_bytes()), (COMMON_NAME, tag, b"device-1")];
        let Verdict::Verified(chain) = verify(subject) else { panic!("string type {tag:#x}") };
        assert_eq!(chain.device().as_str(), "device-1");
        assert_eq!(chain.leaf_info().subject, r"CN=device-1,O=B\C3\BCro\0D\0A");
    }
    let long = [b'a'; 8 * 1024];
    let refused: [&[(&str, u8, &[u8])]; 8] = [
        &[(COMMON_NAME, 0x1e, b"\0d\0e\0v")],
        &[(COMMON_NAME, 0x14, b"device-1")],
        &[(COMMON_NAME, 0x1c, b"\0\0\0d")],
        &[(COMMON_NAME, 0x0c, b"device-1"), (COMMON_NAME, 0x0c, b"device-1")],
        &[(COMMON_NAME, 0x0c, b"device\0-1")],
        &[(COMMON_NAME, 0x0c, b"device\xff")],
        &[(COMMON_NAME, 0x0c, &long)],
        &[(ORGANIZATION, 0x0c, b"device-1")],
    ];
    for subject in refused {
        assert!(matches!(verify(subject), Verdict::Refused(_)), "{subject:x?}");
    }
}

/// One vector, whoever made it.
pub struct Case {
    pub id: String,
    pub material: TrustMaterial,
    /// End-entity first.
    pub chain: Vec<Vec<u8>>,
    pub now: i64,
    pub max_intermediates: u32,
    pub expect: Expect,
}

/// What should come of a case.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    Success,
    /// Refused, whatever the reason.
    RefusedAnyhow,
    Refused(Refusal),
    /// No issuer, and nothing wrong with the end-entity itself.
    Undecided,
    /// The trust store is not built.
    Fault(MaterialKind),
}

#[derive(Debug)]
enum Outcome {
    Accepted,
    Refused(Refused),
    Undecided(Refused),
    Fault(TrustFault),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Accepted => f.write_str("accepted"),
            Outcome::Refused(refused) => write!(f, "{refused}"),
            Outcome::Undecided(refused) => write!(f, "{refused}"),
            Outcome::Fault(fault) => write!(f, "{fault}"),
        }
    }
}

impl Expect {
    fn is_met_by(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Expect::Success, Outcome::Accepted) | (Expect::Undecided, Outcome::Undecided(_)) => {
                true
            }
            (Expect::Success, _) | (_, Outcome::Accepted) => false,
            (Expect::RefusedAnyhow, _) => true,
            (Expect::Refused(expected), Outcome::Refused(got)) => got.refusal == expected,
            (Expect::Fault(expected), Outcome::Fault(got)) => got.kind == expected,
            _ => false,
        }
    }
}

impl Case {
    /// An anchor that is refused at load is not trusted, and the others decide. Any other fault
    /// of the material leaves its tenant without service.
    fn run(&self) -> Outcome {
        let mut material = self.material.clone();
        let mut told = None;
        if let Err(faults) = TrustStore::build(material.clone()) {
            for fault in faults.into_iter().rev() {
                if fault.kind != MaterialKind::Anchor {
                    return Outcome::Fault(fault);
                }
                material.anchors.remove(fault.index);
                told = Some(fault);
            }
        }
        match told {
            Some(fault) if material.anchors.is_empty() => return Outcome::Fault(fault),
            Some(fault) if matches!(self.expect, Expect::Fault(_)) => return Outcome::Fault(fault),
            _ => {}
        }
        let store = match TrustStore::build(material) {
            Ok(store) => store,
            Err(faults) => return Outcome::Fault(faults[0].clone()),
        };
        let chain: Vec<&[u8]> = self.chain.iter().map(Vec::as_slice).collect();
        match store.verify_path(&chain, &[], self.max_intermediates, self.now) {
            PathVerdict::Verified(_) => Outcome::Accepted,
            PathVerdict::IssuerUnknown(refused) => Outcome::Undecided(refused),
            PathVerdict::Refused(refused) => Outcome::Refused(refused),
        }
    }
}

/// Kind by id.
fn accepted_deviations() -> BTreeMap<&'static str, &'static str> {
    include_str!("../vectors/deviations.txt")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some(kind @ ("LAX" | "STRICT")), Some(id), Some(_)) => (id, kind),
                _ => panic!("not `LAX|STRICT id reason`: {line}"),
            }
        })
        .collect()
}

#[derive(Deserialize)]
struct Suite {
    testcases: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    id: String,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    #[serde(default)]
    crls: Option<Vec<String>>,
    validation_time: Option<String>,
    max_chain_depth: Option<u32>,
    expected_result: String,
}

fn limbo(file: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(file).unwrap();
    let suite: Suite = serde_json::from_str(&text).unwrap();
    suite.testcases.into_iter().map(Case::from).collect()
}

impl From<Vector> for Case {
    fn from(vector: Vector) -> Case {
        let anchors = vector.trusted_certs.iter().map(|pem| der(pem));
        let mut chain = vec![der(&vector.peer_certificate)];
        chain.extend(vector.untrusted_intermediates.iter().map(|pem| der(pem)));
        Case {
            material: TrustMaterial {
                anchors: anchors.map(|der| Anchor { der, ..Anchor::default() }).collect(),
                crls: vector.crls.iter().flatten().map(|pem| der(pem)).collect(),
                ..TrustMaterial::default()
            },
            chain,
            now: match &vector.validation_time {
                Some(time) => unix_seconds(time),
                None => Clock::system().now(),
            },
            max_intermediates: vector
                .max_chain_depth
                .map_or(MAX_INTERMEDIATES, |depth| depth.min(MAX_INTERMEDIATES)),
            expect: match vector.expected_result.as_str() {
                "SUCCESS" => Expect::Success,
                "FAILURE" => Expect::RefusedAnyhow,
                other => panic!("{}: expected_result {other}", vector.id),
            },
            // Some ids hold blanks in the upstream suite.
            id: vector.id.replace(' ', "_"),
        }
    }
}

/// The content of the first PEM block. What is not base64 is left to the parser under test.
fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body.trim()).unwrap_or_default()
}

/// `2024-03-01T00:00:00[.999]+00:00`; a part of a second is cut off.
fn unix_seconds(text: &str) -> i64 {
    assert!(text.ends_with("+00:00") || text.ends_with('Z'), "{text}");
    let number = |range: std::ops::Range<usize>| -> u16 { text[range].parse().unwrap() };
    let month = Month::try_from(number(5..7) as u8).unwrap();
    Date::from_calendar_date(number(0..4).into(), month, number(8..10) as u8)
        .unwrap()
        .with_time(
            Time::from_hms(number(11..13) as u8, number(14..16) as u8, number(17..19) as u8)
                .unwrap(),
        )
        .assume_utc()
        .unix_timestamp()
}

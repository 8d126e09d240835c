//! What the edge and its tenants say of tokens in the same words.

use std::time::Duration;

use super::decode::Decoder;
use super::fault::{Located, Place};
use super::node::Node;
use super::values::FileRef;
use crate::token::{Algorithm, MAX_LIFESPAN, MIN_LIFESPAN};

const DAY: Duration = Duration::from_secs(86_400);

pub struct KeyModel {
    pub kid: Located<String>,
    pub file: FileRef,
}

/// Keys that the edge makes itself and keeps, sealed, in the registry.
pub struct RotationModel {
    /// Where these stand, or what comes nearest to them.
    pub every_at: Place,
    pub publish_for_at: Place,
    /// What the keys are sealed with.
    pub secret_file: FileRef,
    pub every: Duration,
    /// How long a key is published before it signs.
    pub publish_for: Duration,
    pub algorithms: Vec<Algorithm>,
}

pub const ALGORITHMS: [(&str, Algorithm); 2] =
    [("es256", Algorithm::Es256), ("rs256", Algorithm::Rs256)];

/// `None` where it is faulty.
pub fn rotation(d: &mut Decoder<'_>, node: &Node) -> Option<RotationModel> {
    let mut fields = d.mapping(node)?;
    let secret_file = fields.required(d, "secret_file", "secret_file: keys.secret", Decoder::file);
    let every = fields.or(d, "every", 30 * DAY, |d, node| d.duration(node, DAY..=3_660 * DAY));
    let publish_for =
        fields.or(d, "publish_for", DAY / 24, |d, node| d.duration(node, DAY / 288..=30 * DAY));
    let algorithms = fields.or(d, "algorithms", vec![Algorithm::Es256], |d, node| {
        let mut algorithms =
            d.filled_list(node, "[es256]", |d, node| d.choice(node, &ALGORITHMS))?;
        algorithms.sort_unstable_by_key(|algorithm| algorithm.name());
        algorithms.dedup();
        Some(algorithms)
    });
    let (at_every, at_publish_for) = (fields.key("every"), fields.key("publish_for"));
    fields.finish(d);
    Some(RotationModel {
        every_at: at_every.or(at_publish_for).unwrap_or(node.at),
        publish_for_at: at_publish_for.or(at_every).unwrap_or(node.at),
        secret_file: secret_file?,
        every,
        publish_for,
        algorithms,
    })
}

pub fn signing_keys(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<KeyModel>> {
    d.list(node, |d, node| {
        let mut fields = d.mapping(node)?;
        let kid = fields.required(d, "kid", "kid: k1", |d, node| {
            d.line(node, 64).map(|kid| Located { value: kid.to_owned(), at: node.at })
        });
        let file = fields.required(d, "file", "file: k1.pem", Decoder::file);
        fields.finish(d);
        Some(KeyModel { kid: kid?, file: file? })
    })
}

/// Whole seconds, as a token's `exp` counts.
pub fn lifespan(d: &mut Decoder<'_>, node: &Node) -> Option<u32> {
    let least = Duration::from_secs(u64::from(MIN_LIFESPAN));
    let most = Duration::from_secs(u64::from(MAX_LIFESPAN));
    let lifespan = d.duration(node, least..=most)?;
    u32::try_from(lifespan.as_secs()).ok()
}

//! What the edge and its tenants say of tokens in the same words.

use std::time::Duration;

use super::decode::Decoder;
use super::fault::Located;
use super::node::Node;
use super::values::FileRef;
use crate::token::MIN_LIFESPAN;

const DAY: Duration = Duration::from_secs(86_400);

pub struct KeyModel {
    pub kid: Located<String>,
    pub file: FileRef,
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
    let lifespan = d.duration(node, least..=30 * DAY)?;
    u32::try_from(lifespan.as_secs()).ok()
}

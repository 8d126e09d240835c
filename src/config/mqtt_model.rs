//! How a tenant's devices speak MQTT, as the file describes it.

use super::decode::Decoder;
use super::fault::{Place, quoted};
use super::node::{Kind, Node};
use crate::upstream::{BrokerForward, ClientIdPattern, ClientIds, Placeholder, Template};

pub struct MqttModel {
    /// Of the section, or of the tenant that has none.
    pub at: Place,
    /// Whether there is a section.
    pub written: bool,
    /// Of the user name, or of the section.
    pub user_name_at: Place,
    /// Of the template of client ids.
    pub client_id_at: Place,
    pub forward: BrokerForward,
}

/// User properties in one CONNECT.
const MAX_PROPERTIES: usize = 32;

impl MqttModel {
    pub fn default(at: Place) -> MqttModel {
        MqttModel {
            at,
            written: false,
            user_name_at: at,
            client_id_at: at,
            forward: BrokerForward::default(),
        }
    }

    pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<MqttModel> {
        let mut fields = d.mapping(node)?;
        let default = BrokerForward::default();
        let client_ids = fields.or(d, "client_ids", default.client_ids, client_ids);
        let at = fields.key("upstream_client_id").unwrap_or(node.at);
        let client_id = fields.or(d, "upstream_client_id", default.client_id, client_id);
        let user_name = fields.or_if_absent(d, "user_name", None, |d, node| {
            template(d, node, &Placeholder::ALL).map(Some)
        });
        let password = fields.or_if_absent(d, "password", None, |d, node| {
            template(d, node, &Placeholder::ALL).map(Some)
        });
        let user_properties =
            fields.or_if_absent(d, "user_properties", Vec::new(), user_properties);
        let proxy_protocol = fields.or(d, "proxy_protocol", false, Decoder::boolean);
        let user_name_at = fields.key("user_name").unwrap_or(node.at);
        let password_at = fields.key("password");
        fields.finish(d);
        let mixes = client_id.uses(Placeholder::Device) || client_ids == ClientIds::Any;
        if mixes && !client_id.separates(Placeholder::Device) {
            let help = "write `upstream_client_id: \"{device}/{client_id}\"`";
            let message = "two devices could come to have one client id at the broker";
            d.fault(at, message, help);
            return None;
        }
        if let (Some(None), Some(Some(_)), Some(at)) = (&user_name, &password, password_at) {
            let message = "before MQTT 5.0 there is no password without a user name";
            d.fault(at, message, "add `user_name: \"{device}\"`");
            return None;
        }
        Some(MqttModel {
            at: node.at,
            written: true,
            user_name_at,
            client_id_at: at,
            forward: BrokerForward {
                client_ids,
                client_id,
                user_name: user_name?,
                password: password?,
                user_properties: user_properties?,
                proxy_protocol,
            },
        })
    }
}

fn client_ids(d: &mut Decoder<'_>, node: &Node) -> Option<ClientIds> {
    if matches!(&node.kind, Kind::Scalar { text, .. } if &**text == "any") {
        return Some(ClientIds::Any);
    }
    let help = "such as `\"{device}\"` or `\"d:{device}:*\"`";
    let patterns = d.filled_list(node, "[\"{device}\"]", |d, node| {
        d.parsed(node, help, ClientIdPattern::parse)
    })?;
    Some(ClientIds::Patterns(patterns))
}

/// The broker's client id: whatever else it has, the client's own is in it.
fn client_id(d: &mut Decoder<'_>, node: &Node) -> Option<Template> {
    let allowed = [Placeholder::Tenant, Placeholder::Device, Placeholder::ClientId];
    let template = template(d, node, &allowed)?;
    if !template.uses(Placeholder::ClientId) {
        let help = "such as `\"{tenant}/{client_id}\"`";
        d.fault(node.at, "every client would get one client id", help);
        return None;
    }
    Some(template)
}

fn template(d: &mut Decoder<'_>, node: &Node, allowed: &[Placeholder]) -> Option<Template> {
    let names: Vec<String> = allowed.iter().map(|value| format!("`{value}`")).collect();
    let help = format!("the placeholders are {}", names.join(", "));
    let text = d.line(node, 1_024)?;
    match Template::parse(text, allowed) {
        Ok(template) => Some(template),
        Err(reason) => {
            let message = match unknown(text, allowed) {
                Some(name) => format!("there is no placeholder {} here", quoted(name)),
                None => reason.to_string(),
            };
            d.fault(node.at, message, help);
            None
        }
    }
}

/// The first thing in braces that is none of these, with its braces.
fn unknown<'t>(text: &'t str, allowed: &[Placeholder]) -> Option<&'t str> {
    let braced = text.match_indices('{').filter_map(|(start, _)| {
        let rest = text.get(start..)?;
        rest.get(..=rest.find('}')?)
    });
    let mut braced = braced.filter(|braced| braced.matches('{').count() == 1);
    braced.find(|braced| !allowed.iter().any(|value| value.to_string() == **braced))
}

fn user_properties(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<(Box<str>, Template)>> {
    let fields = d.mapping(node)?;
    let mut properties: Vec<(Box<str>, Template)> = Vec::new();
    for (key, node) in fields.named() {
        let name: &str = &key.text;
        if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
            d.fault(key.at, "not a name for a user property", "1 to 256 printable characters");
            return None;
        }
        // The same key twice is a fault of any mapping, and told as such.
        let same = |known: &str| known != name && known.eq_ignore_ascii_case(name);
        if properties.iter().any(|(known, _)| same(known)) {
            d.fault(key.at, "this user property stands here in two spellings", "keep one of them");
            return None;
        }
        let template = template(d, node, &Placeholder::ALL)?;
        properties.push((name.into(), template));
    }
    if properties.len() > MAX_PROPERTIES {
        d.fault(node.at, "too many user properties", format!("at most {MAX_PROPERTIES}"));
        return None;
    }
    Some(properties)
}

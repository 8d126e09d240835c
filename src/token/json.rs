//! JSON that has one reading.
//!
//! RFC 8259 §4 leaves open what a name that stands twice means: parsers take the first, the
//! last or none. What two parties read differently is refused here (RFC 7515 §4 and RFC 7519
//! §4 allow it), names of inner objects too.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// An object in which every name, at any depth, stands once.
///
/// # Errors
/// Where `text` is anything else. serde_json bounds the depth (128).
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, NotOneReading> {
    match serde_json::from_slice(text) {
        Ok(Unambiguous(Value::Object(members))) => Ok(members),
        Ok(_) => Err(NotOneReading::NoObject),
        Err(error) if error.is_data() => Err(NotOneReading::RepeatedName),
        Err(_) => Err(NotOneReading::NoObject),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotOneReading {
    NoObject,
    RepeatedName,
}

struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unambiguous, D::Error> {
        deserializer.deserialize_any(Build).map(Unambiguous)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which every name stands once")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unambiguous(value))) = members.next_entry::<String, _>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth_and_in_any_spelling() {
        for twice in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"o":{"a":1,"a":2}}"#,
            r#"{"l":[{"a":1,"b":[],"a":2}]}"#,
        ] {
            assert_eq!(object(twice.as_bytes()), Err(NotOneReading::RepeatedName), "{twice}");
        }
    }

    #[test]
    fn what_is_no_object_is_told_apart() {
        let deep = format!("{{\"a\":{}", "[".repeat(10_000));
        let odd = ["", "1", "[]", "null", "{", "{}x", r#"{"a":1,}"#, "{\"a\":\"\u{1}\"}", &deep];
        for odd in odd {
            assert_eq!(object(odd.as_bytes()), Err(NotOneReading::NoObject), "{odd:.20}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(NotOneReading::NoObject));
    }

    #[test]
    fn plain_objects_are_read_as_they_stand() {
        let text = r#"{"a":[1,-2,0.5,true,null,"x\n"],"b":{"a":{}}}"#;
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), plain);
    }
}

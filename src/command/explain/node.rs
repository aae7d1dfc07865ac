//! YAML that remembers where it stood, and reads as a Kubernetes object the way the API server would read it.
//!
//! Kubernetes types are not deserialized from YAML directly: plain `on` would quietly become the string "on" in an annotation,
//! where kubectl sends a boolean and the API server refuses it. So a document becomes a tree of [`Node`]s by YAML 1.1's
//! rules first, as kubectl does it (sigs.k8s.io/yaml), and each type mismatch is then found with its path and its line.

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use serde_saphyr::Spanned;
use std::{fmt, ops::Range};

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The line that it begins on, from 1, within the text that was parsed.
    pub(super) line: usize,
    /// The bytes of its text, where it is a scalar.
    pub(super) text: Range<usize>,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// A value that is not what the API server wants at its place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}{message}", prefix(path))]
pub(super) struct Misfit {
    /// Names of fields and indices of items, the innermost first.
    path: Vec<String>,
    message: String,
    /// The line of the innermost value; 0 where it is not known.
    pub(super) line: usize,
    /// The bytes of that value's text.
    pub(super) text: Range<usize>,
    /// Whether a string was wanted and something else stands there unquoted.
    pub(super) unquoted: bool,
}

fn prefix(path: &[String]) -> String {
    let mut text = String::new();
    for (place, segment) in path.iter().rev().enumerate() {
        if place > 0 && !segment.starts_with('[') {
            text.push('.');
        }
        text.push_str(segment);
    }
    if !text.is_empty() {
        text.push_str(": ");
    }
    text
}

// === impl Node ===

impl Node {
    /// The value of a field; nothing where this is no map, or has no such field, or the field is null.
    pub(super) fn get(&self, field: &str) -> Option<&Self> {
        let Value::Map(fields) = &self.value else { return None };
        let (_, node) = fields.iter().find(|(name, _)| name == field)?;
        (node.value != Value::Null).then_some(node)
    }

    /// The text of a string field.
    pub(super) fn string(&self, field: &str) -> Option<&str> {
        match &self.get(field)?.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Reads this as a Kubernetes object, found at `path`.
    pub(super) fn read<K: DeserializeOwned>(&self, path: &[&str]) -> Result<K, Misfit> {
        K::deserialize(self).map_err(|misfit| {
            path.iter().rev().fold(misfit.at(self), |misfit, segment| misfit.within((*segment).to_owned()))
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, defined } = Spanned::<Value>::deserialize(deserializer)?;
        let bytes = defined.span().byte_offset().zip(defined.span().byte_len());
        let bytes = bytes.and_then(|(start, length)| {
            let start = usize::try_from(start).ok()?;
            Some(start..start.checked_add(usize::try_from(length).ok()?)?)
        });
        Ok(Self { line: usize::try_from(referenced.line()).unwrap_or(0), text: bytes.unwrap_or_default(), value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
                Value::deserialize(deserializer)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Signed(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Unsigned(value))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::String(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Value::Map(map))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

// === impl Deserializer for &Node ===

struct Items<'de>(std::iter::Enumerate<std::slice::Iter<'de, Node>>);

struct Fields<'de> {
    rest: std::slice::Iter<'de, (String, Node)>,
    next: Option<&'de (String, Node)>,
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Map(fields) => visitor.visit_map(Fields { rest: fields.iter(), next: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            // Go's decoder leaves a string empty where null stands: https://pkg.go.dev/encoding/json#Unmarshal
            Value::Null => visitor.visit_borrowed_str(""),
            Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) => {
                self.deserialize_any(visitor).map_err(|misfit| Misfit { unquoted: true, ..misfit })
            }
            Value::String(_) | Value::List(_) | Value::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some((index, item)) = self.0.next() else { return Ok(None) };
        seed.deserialize(item).map(Some).map_err(|misfit| misfit.at(item).within(format!("[{index}]")))
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.next = self.rest.next();
        let Some((name, _)) = self.next else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let Some((name, value)) = self.next else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(value).map_err(|misfit| misfit.at(value).within(name.clone()))
    }
}

// === impl Misfit ===

impl Misfit {
    /// The innermost value is where it went wrong; the others only lead there.
    fn at(mut self, node: &Node) -> Self {
        if self.line == 0 {
            self.line = node.line;
            self.text = node.text.clone();
        }
        self
    }

    fn within(mut self, segment: String) -> Self {
        self.path.push(segment);
        self
    }
}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), message: message.to_string(), line: 0, text: 0..0, unquoted: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn node(text: &str) -> Node {
        serde_saphyr::from_str(text).unwrap()
    }

    fn misfit(text: &str) -> Misfit {
        node(text).read::<Pod>(&[]).unwrap_err()
    }

    #[test]
    fn a_pod_as_people_write_it_is_read() {
        let pod: Pod = node(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  creationTimestamp: 2026-01-01T00:00:00Z\n  labels:\n\
             spec:\n  containers:\n  - name: app\n    resources: {limits: {cpu: 1, memory: 0.5, example.com/x: 2k}}\n    \
             livenessProbe: {httpGet: {port: 80}}\n",
        )
        .read(&[])
        .unwrap();
        assert_eq!(pod.metadata.labels, None);
        assert!(pod.metadata.creation_timestamp.is_some());
        let container = &pod.spec.unwrap().containers[0];
        let limits = container.resources.as_ref().unwrap().limits.as_ref().unwrap();
        let limits: Vec<_> = limits.values().map(|quantity| quantity.0.as_str()).collect();
        assert_eq!(limits, ["1", "2k", "0.5"]);
    }

    #[test]
    fn yaml_and_json_of_one_pod_read_alike() {
        let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {x: 'on'}}\nspec: {containers: []}\n";
        let json = r#"{"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "annotations": {"x": "on"}}, "spec": {"containers": []}}"#;
        assert_eq!(node(yaml).read::<Pod>(&[]).unwrap(), node(json).read::<Pod>(&[]).unwrap());
    }

    #[test]
    fn a_null_annotation_is_empty_as_it_is_to_the_api_server() {
        let pod: Pod =
            node("apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    linkerd.io/inject:\n").read(&[]).unwrap();
        assert_eq!(pod.metadata.annotations.unwrap()["linkerd.io/inject"], "");
    }

    #[test]
    fn a_misfit_names_its_path_and_its_line() {
        let error = misfit("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: app\n    args: [wait, 7]\n");
        assert_eq!(error.to_string(), "spec.containers[0].args[1]: invalid type: integer `7`, expected a string");
        assert_eq!(error.line, 6);
        assert!(error.unquoted);
    }

    #[test]
    fn what_yaml_takes_for_a_boolean_or_a_number_is_not_quietly_a_string() {
        for value in ["on", "yes", "No", "true", "y", "1", "1.5", "0x10"] {
            let text = format!("apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {{linkerd.io/inject: {value}}}\n");
            let error = misfit(&text);
            assert!(error.unquoted, "{value}: {error}");
            assert_eq!(&text[error.text.clone()], value);
        }
    }
}

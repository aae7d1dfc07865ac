//! A tree of values that remembers where it stood, and reads as a Kubernetes object the way the API server would read it.
//!
//! Kubernetes types are not deserialized from YAML directly: plain `on` would quietly become the string "on" in an annotation,
//! where kubectl sends a boolean and the API server refuses it. So a document becomes a tree of [`Node`]s by YAML 1.1's
//! rules first, as kubectl does it (sigs.k8s.io/yaml), and each type mismatch is then found with its path and its line.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};

use super::Misfit;

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Node {
    /// The line that it begins on, from 1, in the file.
    pub(in super::super) line: usize,
    /// How it is written, where it is no text because it stands without quotes.
    pub(in super::super) plain: Option<Box<str>>,
    pub(in super::super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

// === impl Node ===

impl Node {
    /// The value of a field; nothing where this is no map, or has no such field, or the field is null.
    pub(in super::super) fn get(&self, field: &str) -> Option<&Self> {
        let Value::Map(fields) = &self.value else { return None };
        let (_, node) = fields.iter().find(|(name, _)| name == field)?;
        (node.value != Value::Null).then_some(node)
    }

    /// The text of a string field.
    pub(in super::super) fn string(&self, field: &str) -> Option<&str> {
        match &self.get(field)?.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value at a path of fields, as [`Node::get`] finds each.
    pub(in super::super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, field| node.get(field))
    }

    /// The names of a map's fields; none where this is no map.
    pub(in super::super) fn fields(&self) -> impl Iterator<Item = (&str, &Self)> {
        let fields = match &self.value {
            Value::Map(fields) => fields.as_slice(),
            _ => &[],
        };
        fields.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// How many values it holds, itself among them.
    pub(super) fn values(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::values).sum(),
            Value::Map(fields) => fields.iter().map(|(_, node)| node.values()).sum(),
            _ => 0,
        }
    }

    /// How deeply it is nested: 1 where it holds nothing.
    pub(super) fn depth(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Map(fields) => fields.iter().map(|(_, node)| node.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Reads this as a Kubernetes object, found at `path`.
    pub(in super::super) fn read<K: DeserializeOwned>(&self, path: &[&str]) -> Result<K, Misfit> {
        K::deserialize(self).map_err(|misfit| {
            path.iter().rev().fold(misfit.at(self.line), |misfit, segment| misfit.within((*segment).to_owned()))
        })
    }
}

// === impl Value ===

impl Value {
    /// What it is, in a word.
    pub(in super::super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Signed(_) | Self::Unsigned(_) | Self::Float(_) => "a number",
            Self::String(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
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
                self.deserialize_any(visitor).map_err(|misfit| misfit.unquoted_as(self.plain.clone()))
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
        seed.deserialize(item).map(Some).map_err(|misfit| misfit.at(item.line).within(format!("[{index}]")))
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
        seed.deserialize(value).map_err(|misfit| misfit.at(value.line).within(name.clone()))
    }
}

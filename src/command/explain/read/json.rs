//! JSON becomes the same trees of values.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Fault, Fields, MAX_DEPTH, MAX_VALUES, Node, Place, Repeated, Root, Sink, Text, Value, syntax};

/// Reads one JSON value. The items of a list go to the sink one by one.
pub(super) fn value(text: &mut Text<'_>, place: &Place, sink: &mut dyn Sink) -> Result<(), Fault> {
    let first_line = text.line();
    let state =
        State { line: text.line_cell(), taken: text.taken_cell(), values: Cell::new(0), repeated: RefCell::default() };
    let mut root = Root::new(sink, place);
    let mut deserializer = serde_json::Deserializer::from_reader(text.bytes());
    let read = deserializer.deserialize_any(RootVisitor { state: &state, root: &mut root });
    let repeated = state.repeated.take();
    match read {
        Ok(bare) => {
            root.repeated.extend(repeated);
            root.end(bare);
            Ok(())
        }
        Err(error) => {
            let line = Some(first_line + error.line().max(1) - 1);
            let message = syntax::of_json(&error);
            let message = if message.contains("recursion limit") { too_deep() } else { message };
            Err(Fault { line, message })
        }
    }
}

fn too_deep() -> String {
    format!("values are nested more than {MAX_DEPTH} deep, which no Kubernetes object is")
}

struct State {
    line: Rc<Cell<usize>>,
    taken: Rc<Cell<usize>>,
    values: Cell<usize>,
    repeated: RefCell<Vec<Repeated>>,
}

struct RootVisitor<'s, 'r, 'a> {
    state: &'s State,
    root: &'r mut Root<'a>,
}

struct ItemsVisitor<'s, 'r, 'a> {
    state: &'s State,
    root: &'r mut Root<'a>,
}

/// One value below the root.
#[derive(Clone, Copy)]
struct ValueSeed<'s> {
    state: &'s State,
    depth: usize,
}

// === impl RootVisitor ===

impl<'de> Visitor<'de> for RootVisitor<'_, '_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { state, root } = self;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(ItemsVisitor { state, root: &mut *root })?;
            } else {
                let node = map.next_value_seed(ValueSeed { state, depth: 1 })?;
                root.field(key, node);
            }
        }
        Ok(None)
    }
}

// === impl ItemsVisitor ===

impl<'de> DeserializeSeed<'de> for ItemsVisitor<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemsVisitor<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of items")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { state, root } = self;
        while let Some(item) = items.next_element_seed(ValueSeed { state, depth: 2 })? {
            root.item(item, state.repeated.take());
            state.values.set(0);
            state.taken.set(0);
        }
        Ok(())
    }
}

// === impl ValueSeed ===

impl ValueSeed<'_> {
    fn node(&self, value: Value) -> Node {
        Node { line: self.state.line.get(), plain: None, value }
    }

    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    fn count<E: Error>(&self) -> Result<(), E> {
        let values = self.state.values.get() + 1;
        self.state.values.set(values);
        if values > MAX_VALUES {
            return Err(E::custom("one object has more than 200,000 values: no API server would take it"));
        }
        if self.depth > MAX_DEPTH {
            return Err(E::custom(too_deep()));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(self.node(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(self.node(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(self.node(Value::Signed(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(self.node(i64::try_from(value).map_or(Value::Unsigned(value), Value::Signed)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(self.node(Value::Float(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(self.node(Value::String(value.to_owned())))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Node, E> {
        Ok(self.node(Value::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let line = self.state.line.get();
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.deeper())? {
            list.push(item);
        }
        Ok(Node { line, plain: None, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let line = self.state.line.get();
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            let node = map.next_value_seed(self.deeper())?;
            self.state.repeated.borrow_mut().extend(fields.put(key, node));
        }
        Ok(Node { line, plain: None, value: Value::Map(fields.into_vec()) })
    }
}

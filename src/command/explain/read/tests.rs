use std::io::{self, Read};

use k8s_openapi::api::core::v1::Pod;

use super::*;

/// Everything that came of a text.
#[derive(Default)]
struct Gathered {
    documents: Vec<(Place, Node)>,
    items: Vec<Node>,
    repeated: Vec<Repeated>,
    faults: Vec<String>,
}

impl Sink for Gathered {
    fn begin(&mut self, place: &Place) {
        self.documents.push((place.clone(), Node { line: 0, plain: None, value: Value::Null }));
    }

    fn item(&mut self, item: Node, repeated: Vec<Repeated>, _: &[(String, Node)]) {
        self.items.push(item);
        self.repeated.extend(repeated);
    }

    fn end(&mut self, root: Node, repeated: Vec<Repeated>) {
        self.documents.last_mut().unwrap().1 = root;
        self.repeated.extend(repeated);
    }

    fn abandon(&mut self) {
        self.documents.pop();
    }

    fn fault(&mut self, place: Option<&Place>, message: String) {
        self.faults.push(place.map_or_else(|| message.clone(), |place| format!("{place}: {message}")));
    }
}

fn read_all(source: impl Read) -> Gathered {
    let mut all = Gathered::default();
    read("x.yaml", &mut Text::new(source), &mut all);
    all
}

fn roots(text: &str) -> Vec<(usize, usize)> {
    let all = read_all(text.as_bytes());
    assert_eq!(all.faults, [""; 0], "{text}");
    all.documents.iter().map(|(place, _)| (place.document, place.line)).collect()
}

fn node(text: &str) -> Node {
    let mut all = read_all(text.as_bytes());
    assert_eq!((all.documents.len(), all.faults.len()), (1, 0), "{text}: {:?}", all.faults);
    all.documents.remove(0).1
}

fn misfit(text: &str) -> Misfit {
    node(text).read::<Pod>(&[]).unwrap_err()
}

/// A source that never ends.
struct Endless(&'static [u8], usize);

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        for byte in into.iter_mut() {
            *byte = self.0[self.1 % self.0.len()];
            self.1 += 1;
        }
        Ok(into.len())
    }
}

#[test]
fn documents_begin_where_lines_of_three_dashes_are() {
    assert_eq!(roots("a: 1\n---\nb: 2\n"), [(1, 1), (2, 3)]);
    assert_eq!(roots("a: 1\n--- # two\nb: 2"), [(1, 1), (2, 3)]);
    assert_eq!(roots("a: 1\r\n---\r\nb: 2\r\n"), [(1, 1), (2, 3)]);
    assert_eq!(roots("a: 1\n--- {b: 2}\n"), [(1, 1), (2, 2)]);
    assert_eq!(roots("%YAML 1.2\n---\na: 1\n---\nb: 2\n"), [(1, 3), (2, 5)]);
    assert_eq!(roots("a: 1\n...\n---\nb: 2\n"), [(1, 1), (2, 4)]);
    assert_eq!(roots("  a: 1\n  b: 2\n"), [(1, 1)]);
}

#[test]
fn empty_documents_are_none() {
    assert_eq!(roots("---\n---\na: 1\n---\n---\n"), [(1, 3)]);
    assert_eq!(roots("a: 1\n---\nnull\n---\nb: 2\n"), [(1, 1), (3, 5)]);
    for empty in ["", "# nothing\n---\n\n---\n# here\n---"] {
        assert_eq!(read_all(empty.as_bytes()).faults, [""], "{empty:?}");
    }
}

#[test]
fn a_separator_in_a_string_or_comment_does_not_split() {
    for text in ["a: |\n  ---\n", "a: '\n  ---'\n", "a: 1\n#---\n"] {
        assert_eq!(roots(text), [(1, 1)], "{text}");
    }
}

#[test]
fn marks_of_byte_order_and_utf_16_are_read_over() {
    let text = "a: ü\n---\n\u{feff}b: 2\n";
    assert_eq!(roots(&format!("\u{feff}{text}")), [(1, 1), (2, 3)]);
    for (mark, big) in [(&[0xff_u8, 0xfe][..], false), (&[0xfe, 0xff], true), (&[], false), (&[], true)] {
        let units = text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() });
        let bytes: Vec<u8> = mark.iter().copied().chain(units).collect();
        let all = read_all(bytes.as_slice());
        assert_eq!((all.documents.len(), &all.faults), (2, &vec![]), "{big}");
        assert_eq!(all.documents[0].1.string("a"), Some("ü"));
    }
}

#[test]
fn a_broken_document_leaves_the_others() {
    let all = read_all("a: 1\n---\nb: [1\n---\nc: 3\n---\n{\"d\": }\n---\n{\"e\": 5}\n{\"f\": 6}\n".as_bytes());
    let places: Vec<_> = all.documents.iter().map(|(place, _)| (place.document, place.line)).collect();
    assert_eq!(places, [(1, 1), (3, 5), (4, 7), (5, 9), (6, 10)], "{:?}", all.faults);
    assert_eq!(all.faults.len(), 1, "{:?}", all.faults);
    assert!(all.faults[0].starts_with("x.yaml, document 2, line "), "{:?}", all.faults);
}

#[test]
fn json_streams_of_objects_are_documents_each() {
    let all = read_all("{\"a\": 1}{\"b\": [true, null, -2, 1.5, \"\\u00fc\"]}\n\n{\"c\": {}}".as_bytes());
    let places: Vec<_> = all.documents.iter().map(|(place, _)| (place.document, place.line)).collect();
    assert_eq!((places, all.faults), (vec![(1, 1), (2, 1), (3, 3)], vec![]));
    let broken = read_all("{\"a\": 1}\n{\"b\": 2,,}\n".as_bytes());
    assert_eq!(broken.documents.len(), 1);
    assert!(broken.faults[0].starts_with("x.yaml, document 2, line 2: this is not JSON: "), "{:?}", broken.faults);
    let rest = read_all("{\"a\": 1} trailing".as_bytes());
    assert!(rest.faults[0].contains("neither another one nor ---"), "{:?}", rest.faults);
}

#[test]
fn what_begins_like_json_may_be_yaml() {
    let all = read_all("{\"a\": b, # a comment\n  c: [1,]}\n---\nd: 1\n".as_bytes());
    assert_eq!((all.documents.len(), all.faults), (2, vec![]));
    assert_eq!(all.documents[0].1.string("a"), Some("b"));
    let broken = read_all("{\"a\": [1}\n".as_bytes());
    assert!(
        broken.faults[0].starts_with("x.yaml, document 1, line 1: this is neither JSON nor YAML: "),
        "{:?}",
        broken.faults
    );
}

#[test]
fn the_last_of_two_equal_keys_counts_and_both_are_reported() {
    for text in ["a: 1\nb: {c: 1,\n c: 2}\na: 3\n", "{\"a\": 1,\n\"b\": {\"c\": 1,\n \"c\": 2},\n\"a\": 3}"] {
        let all = read_all(text.as_bytes());
        let root = &all.documents[0].1;
        assert_eq!(root.get("a").unwrap().value, Value::Signed(3), "{text}");
        let mut lines: Vec<_> = all.repeated.iter().map(|repeated| (repeated.line, repeated.key.as_str())).collect();
        lines.sort_unstable();
        assert_eq!(lines, [(3, "c"), (4, "a")], "{text}");
    }
}

#[test]
fn list_items_are_split_and_merge_keys_and_aliases_are_followed() {
    let all = read_all(
        "kind: List\nitems:\n- &one {a: &b 1, c: *b}\n- {<<: *one, a: 2}\n- <<: [{p: 1}, {p: 2, q: 3}]\n".as_bytes(),
    );
    assert_eq!(all.faults, [""; 0]);
    let field = |item: usize, name: &str| all.items[item].get(name).map(|node| node.value.clone());
    assert_eq!(
        (field(0, "c"), field(1, "a"), field(1, "c")),
        (Some(Value::Signed(1)), Some(Value::Signed(2)), Some(Value::Signed(1)))
    );
    assert_eq!((field(2, "p"), field(2, "q")), (Some(Value::Signed(1)), Some(Value::Signed(3))));
}

#[test]
fn too_deep_or_too_large_input_is_refused_with_a_message() {
    let bomb = |levels: u8| {
        let mut text = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in b'b'..b'b' + levels {
            let (this, before) = (char::from(level), char::from(level - 1));
            let aliases = vec![format!("*{before}"); 9].join(",");
            text += &[&*this.to_string(), ": &", &*this.to_string(), " [", &*aliases, "]\n"].concat();
        }
        text
    };
    let deep = format!("a: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    let deep_blocks = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<Vec<_>>().concat();
    let deep_json = format!("{{\"a\": {}{}}}\n", "[".repeat(5000), "]".repeat(5000));
    let wide = format!("a: [{}]\n", "1,".repeat(MAX_VALUES + 1));
    for (text, words) in [
        (bomb(9), "more than 200,000 values"),
        (deep, "nested more than 100 deep"),
        (deep_blocks, "nested more than 100 deep"),
        (deep_json, "nested more than 100 deep"),
        (wide, "more than 200,000 values"),
    ] {
        let all = read_all(format!("{text}---\nlast: 1\n").as_bytes());
        assert_eq!(all.documents.len(), 1, "{words}: the document after it is read");
        assert!(all.faults.len() == 1 && all.faults[0].contains(words), "{words}: {:?}", all.faults);
    }
}

#[test]
fn what_never_ends_is_given_up() {
    let (file, object) = (256 << 10, 64 << 10);
    for (first, bytes, words) in [
        ("", &b"\0"[..], "it holds a NUL byte"),
        ("", b"y\n", "one object is larger than"),
        ("{\"a\": \"", b"y", "one object is larger than"),
        ("", b" ", "it is larger than"),
        ("", b"\n", "it is larger than"),
        ("", b"a: 1\n---\n", "it is larger than"),
        ("", b"[", "nested"),
        ("", b"{\"a\": [1, ", "nested"),
        ("", b"a: [\n---\n", "100 of its documents are broken"),
        ("", b"\xff", "it is not text in UTF-8 or UTF-16"),
    ] {
        let mut all = Gathered::default();
        let source = first.as_bytes().chain(Endless(bytes, 0));
        read("x.yaml", &mut Text::limited(source, file, object), &mut all);
        assert!(all.faults.iter().any(|fault| fault.contains(words)), "{first}{bytes:?}: {:?}", all.faults.last());
    }
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
    assert_eq!(error.to_string(), "spec.containers[0].args[1]: it is the number 7, and text is wanted");
    assert_eq!((error.line, error.unquoted.as_deref()), (6, Some("7")));
    assert_eq!(error.field("Pod"), "pod.spec.containers.args");
}

#[test]
fn a_misfit_names_no_type_of_rust() {
    for (spec, words) in [
        ("containers: [{name: [a]}]", "spec.containers[0].name: it is a list, and text is wanted"),
        ("containers: 7", "spec.containers: it is the number 7, and a list is wanted"),
        ("containers: [a]", "spec.containers[0]: it is the text \"a\", and a map is wanted"),
        ("priority: 1.5, containers: []", "spec.priority: it is the number 1.5, and a whole number is wanted"),
        (
            "priority: 5000000000, containers: []",
            "spec.priority: it is the number 5000000000, and a whole number is wanted",
        ),
        ("hostNetwork: 'on', containers: []", "spec.hostNetwork: it is the text \"on\", and a boolean is wanted"),
    ] {
        let error = misfit(&format!("apiVersion: v1\nkind: Pod\nspec: {{{spec}}}\n"));
        assert_eq!(error.to_string(), words);
    }
    let labelled = misfit("apiVersion: v1\nkind: Pod\nmetadata: {labels: {a.b/c: [1]}}\n");
    assert_eq!(labelled.field("Pod"), "pod.metadata.labels");
}

#[test]
fn a_yaml_boolean_or_number_is_reported_as_unquoted() {
    for value in ["on", "yes", "No", "true", "y", "1", "1.5", "0x10"] {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {{linkerd.io/inject: {value}}}\n");
        assert_eq!(misfit(&text).unquoted.as_deref(), Some(value));
    }
}

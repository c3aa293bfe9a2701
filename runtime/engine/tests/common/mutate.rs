//! Random changes of a JSON document.

use serde_json::{Value, json};

use crate::common::Random;

const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    63,
    64,
    65,
    127,
    128,
    256,
    1000,
    4096,
    65_536,
    1 << 31,
    1 << 32,
    (1 << 53) - 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 63,
    u64::MAX,
];

/// JSON pointers to every value of a document, and to every number.
pub struct Places {
    pub all: Vec<String>,
    pub numbers: Vec<String>,
}

impl Places {
    pub fn of(document: &Value) -> Places {
        let mut places = Places { all: vec![], numbers: vec![] };
        places.collect(document, String::new());
        places
    }

    fn collect(&mut self, value: &Value, here: String) {
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, v)| self.collect(v, format!("{here}/{i}")));
            }
            Value::Object(fields) => {
                fields.iter().for_each(|(k, v)| self.collect(v, format!("{here}/{k}")));
            }
            Value::Number(_) => self.numbers.push(here.clone()),
            _ => (),
        }
        self.all.push(here);
    }
}

/// Changes one value: numbers mostly, because they pass the parser. Does nothing where an
/// earlier change took the place away.
pub fn mutate(document: &mut Value, places: &Places, random: &mut Random) {
    let kind = random.below(12);
    if kind < 9 {
        let path = &places.numbers[random.below(places.numbers.len())];
        let another =
            document.pointer(&places.numbers[random.below(places.numbers.len())]).cloned();
        let (Some(value), Some(another)) = (document.pointer_mut(path), another) else { return };
        let Some(old) = value.as_u64() else {
            *value = [json!(0), json!(1e30), json!("nan"), json!("-inf"), json!(-1)]
                [random.below(5)]
            .clone();
            return;
        };
        *value = match kind {
            0 => json!(NUMBERS[random.below(NUMBERS.len())]),
            1 => json!(old.wrapping_add(1)),
            2 => json!(old.saturating_sub(1)),
            3 => json!(old.wrapping_add(64)),
            4 => json!(old.wrapping_sub(64)),
            5 => json!(old.saturating_mul(2)),
            6 => json!(random.next() >> random.below(64)),
            _ => another,
        };
        return;
    }
    let another = document.pointer(&places.all[random.below(places.all.len())]).cloned();
    let value = document.pointer_mut(&places.all[random.below(places.all.len())]);
    let (Some(value), Some(another)) = (value, another) else { return };
    let kind = random.below(5);
    match (kind, value) {
        (0, value) => *value = another,
        (1, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (1, Value::Object(fields)) if !fields.is_empty() => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            fields.remove(&keys[random.below(keys.len())]);
        }
        (2, Value::Array(items)) if !items.is_empty() => {
            let copy = items[random.below(items.len())].clone();
            items.insert(random.below(items.len() + 1), copy);
        }
        (3, Value::Array(items)) if items.len() > 1 => {
            let (a, b) = (random.below(items.len()), random.below(items.len()));
            items.swap(a, b);
        }
        (_, value) => {
            *value = [
                Value::Null,
                json!(true),
                json!(-1),
                json!(1e300),
                json!(""),
                json!("f32"),
                json!([]),
                json!({}),
            ][random.below(8)]
            .clone();
        }
    }
}

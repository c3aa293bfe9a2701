//! Nodes in topological order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The names that a node uses and makes.
#[derive(Debug, Default)]
pub struct Item<'a> {
    /// Names it uses.
    pub inputs: Vec<&'a str>,
    /// Names it makes.
    pub outputs: Vec<&'a str>,
}

/// The items' indices so that each comes after those whose outputs it uses; the order given
/// where that is one. `title` names an item in messages, `is_known` tells names that are
/// defined outside. Names that nobody makes are left to the caller.
///
/// # Errors
///
/// A name that is made twice; a cycle, with the items on it.
pub fn topological(
    items: &[Item<'_>],
    title: &dyn Fn(usize) -> String,
    is_known: impl Fn(&str) -> bool,
) -> Result<Vec<usize>, String> {
    let mut maker: HashMap<&str, usize> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        for &output in &item.outputs {
            if is_known(output) || maker.insert(output, i).is_some() {
                return Err(format!("'{output}', an output of {}, is defined twice", title(i)));
            }
        }
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    let mut waits: Vec<usize> = vec![0; items.len()];
    let mut sorted = true;
    for (i, item) in items.iter().enumerate() {
        for m in item.inputs.iter().filter_map(|name| maker.get(name)) {
            users[*m].push(i);
            waits[i] += 1;
            sorted &= *m < i;
        }
    }
    if sorted {
        return Ok((0..items.len()).collect());
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..items.len()).filter(|&i| waits[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(items.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &user in &users[i] {
            waits[user] -= 1;
            if waits[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    if order.len() < items.len() {
        return Err(format!(
            "these nodes wait for each other in a cycle: {}",
            cycle(items, title, &maker, &waits).join(" -> ")
        ));
    }
    Ok(order)
}

/// One cycle among the items that still wait, at most ten of them named.
fn cycle(
    items: &[Item<'_>],
    title: &dyn Fn(usize) -> String,
    maker: &HashMap<&str, usize>,
    waits: &[usize],
) -> Vec<String> {
    let mut at = waits.iter().position(|&w| w > 0).expect("some node waits");
    let mut place: HashMap<usize, usize> = HashMap::new();
    let mut visited: Vec<usize> = Vec::new();
    // A node that waits, waits for one that waits: the walk comes to a node it has seen.
    while !place.contains_key(&at) {
        place.insert(at, visited.len());
        visited.push(at);
        let next = items[at].inputs.iter().filter_map(|i| maker.get(i)).find(|&&m| waits[m] > 0);
        match next {
            Some(&m) => at = m,
            None => break,
        }
    }
    let start = place.get(&at).copied().unwrap_or_default();
    let mut names: Vec<String> =
        visited[start..].iter().rev().take(10).map(|&i| title(i)).collect();
    names.push(if visited.len() - start > 10 { "...".into() } else { names[0].clone() });
    names
}

//! In which order commands of several streams are queued, and where streams wait for each
//! other. Pure, so that it is tested without a device.

/// One action of a schedule. Commands are named by their index, streams by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The stream begins after everything that the main stream was given before the list.
    Fork { stream: usize },
    /// The stream goes on when the command of another stream has ended.
    Wait { stream: usize, command: usize },
    /// Queue the command on its stream.
    Command(usize),
    /// Mark the end of the command just queued, for those that wait for it.
    Mark(usize),
}

/// The stream of a command, and earlier commands of other streams that it comes after.
pub(crate) struct Order<'a> {
    pub stream: usize,
    pub after: &'a [usize],
}

/// Steps that keep every order asked for, with no wait that an earlier one implies, and at the
/// end have the main stream wait for all others.
pub(crate) fn schedule(commands: &[Order<'_>]) -> Vec<Step> {
    let streams = commands.iter().map(|c| c.stream + 1).max().unwrap_or(1);
    // The newest command of stream `b` that stream `a` comes after: `seen[a][b]`.
    let mut seen = vec![vec![None; streams]; streams];
    let mut last = vec![None; streams];
    let mut marks = vec![false; commands.len()];
    let mut steps = Vec::with_capacity(commands.len() * 2);
    let mut wait = |steps: &mut Vec<Step>, seen: &mut Vec<Vec<Option<usize>>>, to, on: usize| {
        let from = commands[on].stream;
        if from == to || seen[to][from].is_some_and(|k| k >= on) {
            return;
        }
        seen[to][from] = Some(on);
        marks[on] = true;
        steps.push(Step::Wait { stream: to, command: on });
    };
    for (i, command) in commands.iter().enumerate() {
        let stream = command.stream;
        if stream != 0 && last[stream].is_none() && command.after.is_empty() {
            steps.push(Step::Fork { stream });
        }
        for &on in command.after {
            wait(&mut steps, &mut seen, stream, on);
        }
        steps.push(Step::Command(i));
        last[stream] = Some(i);
    }
    for on in last.into_iter().skip(1).flatten() {
        wait(&mut steps, &mut seen, 0, on);
    }
    let marked = |step: Step| match step {
        Step::Command(i) if marks[i] => [Some(step), Some(Step::Mark(i))],
        _ => [Some(step), None],
    };
    steps.into_iter().flat_map(marked).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::Step::{Command, Fork, Mark, Wait};
    use super::*;

    fn of(commands: &[(usize, &[usize])]) -> Vec<Step> {
        let orders: Vec<_> =
            commands.iter().map(|&(stream, after)| Order { stream, after }).collect();
        schedule(&orders)
    }

    #[test]
    fn one_stream_needs_no_events() {
        assert_eq!(of(&[(0, &[]), (0, &[]), (0, &[])]), [Command(0), Command(1), Command(2)]);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn a_branch_waits_and_is_joined() {
        let steps = of(&[(0, &[]), (1, &[0]), (0, &[]), (0, &[1])]);
        let want = [
            Command(0),
            Mark(0),
            Wait { stream: 1, command: 0 },
            Command(1),
            Mark(1),
            Command(2),
            Wait { stream: 0, command: 1 },
            Command(3),
        ];
        assert_eq!(steps, want, "already joined: no second wait at the end");
    }

    #[test]
    fn a_stream_without_a_predecessor_forks_and_a_loose_end_is_joined() {
        let steps = of(&[(1, &[]), (1, &[]), (0, &[])]);
        let want = [
            Fork { stream: 1 },
            Command(0),
            Command(1),
            Mark(1),
            Command(2),
            Wait { stream: 0, command: 1 },
        ];
        assert_eq!(steps, want);
    }

    #[test]
    fn implied_waits_are_left_out() {
        // Stream 1 waits for 1, which comes after 0 on the same stream.
        let steps = of(&[(0, &[]), (0, &[]), (1, &[1, 0]), (1, &[0]), (0, &[2, 3])]);
        let waits = steps.iter().filter(|s| matches!(s, Wait { .. })).count();
        assert_eq!(waits, 3, "{steps:?}");
        assert!(!steps.contains(&Mark(0)), "{steps:?}");
    }

    /// Every order asked for holds, whatever the graph: checked by following the waits.
    #[test]
    fn random_orders_hold() {
        let mut state = 7u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % n as u64) as usize
        };
        for _ in 0..300 {
            let n = 1 + below(30);
            let mut list: Vec<(usize, Vec<usize>)> = Vec::new();
            for i in 0..n {
                let after = (0..i).filter(|_| below(6) == 0).collect();
                list.push((if i + 1 == n { 0 } else { below(4) }, after));
            }
            let orders: Vec<_> = list.iter().map(|(s, a)| Order { stream: *s, after: a }).collect();
            let steps = schedule(&orders);
            // What is known to have ended when a stream goes on: sets of commands.
            let mut known = vec![std::collections::HashSet::new(); 4];
            let mut at_mark = vec![None; n];
            for step in &steps {
                match *step {
                    Fork { .. } => (),
                    Wait { stream, command } => {
                        let set: std::collections::HashSet<usize> =
                            Option::clone(&at_mark[command])
                                .expect("marked before it is waited for");
                        known[stream].extend(set);
                    }
                    Command(i) => {
                        let stream = list[i].0;
                        for on in &list[i].1 {
                            assert!(known[stream].contains(on), "{i} after {on}: {steps:?}");
                        }
                        known[stream].insert(i);
                    }
                    Mark(i) => at_mark[i] = Some(known[list[i].0].clone()),
                }
            }
            assert_eq!(known[0].len(), n, "all are joined: {steps:?}");
        }
    }
}

//! Two nodes over one registry, that read late, write late and differ in their clocks.

use std::collections::BTreeMap;

use super::tests::{LIFESPAN, PUBLISH_FOR, START, ring, signer};
use super::*;

/// Seconds after which a node that has not read the registry serves nobody.
const STALENESS: i64 = 60;

/// The registry as two nodes see it: what one writes the other reads within the staleness.
struct Registry {
    rows: BTreeMap<String, SealedKey>,
}

impl Registry {
    /// What `Change::AddSigningKey` promises.
    fn add(&mut self, new: NewKey) -> bool {
        let taken = self.rows.values().any(|row| {
            row.algorithm == new.row.algorithm && row.published_at >= new.unless_published_since
        });
        if !taken {
            self.rows.insert(new.row.kid.clone(), new.row);
        }
        !taken
    }

    fn rows(&self) -> Vec<SealedKey> {
        self.rows.values().cloned().collect()
    }
}

struct Node {
    ring: KeyRing,
    read_at: UnixSeconds,
    /// When each kid of its key set came into it.
    published: BTreeMap<String, UnixSeconds>,
    /// How far its clock is ahead.
    skew: i64,
}

impl Node {
    fn new(skew: i64) -> Node {
        Node { ring: ring(&[]), read_at: START - 1, published: BTreeMap::new(), skew }
    }

    fn read(&mut self, registry: &Registry, real: UnixSeconds) {
        self.ring = ring(&registry.rows());
        self.read_at = real;
    }

    fn now(&self, real: UnixSeconds) -> UnixSeconds {
        real + self.skew
    }

    fn note_published(&mut self, real: UnixSeconds) {
        for key in self.ring.states(self.now(real)) {
            self.published.entry(key.kid.to_string()).or_insert(real);
        }
    }
}

/// Numbers without a pattern, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Twelve hours of two nodes that read late, write late and differ in their clocks.
fn two_nodes(seed: u64) {
    let mut dice = Dice(seed);
    let mut registry = Registry { rows: BTreeMap::new() };
    // Clocks differ by at most half of the slack.
    let mut nodes = [Node::new(0), Node::new(dice.roll(31) as i64)];
    let mut pending: Vec<(UnixSeconds, usize, NewKey)> = Vec::new();
    // By kid, the real second at which its last token ends.
    let mut tokens: BTreeMap<String, UnixSeconds> = BTreeMap::new();
    let mut rotated = 0;
    let mut real = START;
    while real < START + 12 * 3_600 {
        for (index, node) in nodes.iter_mut().enumerate() {
            // In half of the runs the nodes read as seldom as they may.
            if real - node.read_at >= STALENESS || (seed.is_multiple_of(2) && dice.roll(4) == 0) {
                node.read(&registry, real);
            }
            let now = node.now(real);
            let waits = pending.iter().any(|(_, by, _)| *by == index);
            // A node that is busy looks later.
            if !waits && dice.roll(3) == 0 {
                let mut made = node.ring.due(now).unwrap();
                if real > START + 3_600 && dice.roll(1_500) == 0 {
                    made.push(node.ring.rotate_now(Algorithm::Es256, now).unwrap());
                }
                let delay = dice.roll(40) as i64;
                pending.extend(made.into_iter().map(|new| (real + delay, index, new)));
            }
        }
        let (ready, later) = pending.into_iter().partition(|(at, ..)| *at <= real);
        pending = later;
        for (_, by, new) in ready {
            // The first key signs at once and has nobody to wait for.
            if new.usable(nodes[by].now(real)) && registry.add(new) {
                rotated += 1;
                nodes[by].read(&registry, real);
            }
        }
        for node in &mut nodes {
            for kid in node.ring.expired(node.now(real)) {
                registry.rows.remove(&kid);
            }
            node.note_published(real);
        }
        for index in 0..2 {
            let (node, other) = (&nodes[index], &nodes[1 - index]);
            let now = node.now(real);
            let keys = node.ring.signing_keys(now);
            let Some(kid) = signer(&keys, now) else {
                assert!(real < START + 300, "no key signs at {real}, seed {seed}");
                continue;
            };
            let status = node.ring.states(now).into_iter().find(|key| *key.kid == *kid).unwrap();
            let first = status.sign_from == status.published_at;
            assert!(now >= status.sign_from);
            let published_for = now - status.published_at;
            assert!(first || published_for >= PUBLISH_FOR as i64, "seed {seed}");
            if !first {
                // No verifier holds a key set of either node without this key.
                for set in [&node.published, &other.published] {
                    let since = set.get(&kid).copied();
                    assert!(
                        since.is_some_and(|since| real - since >= 300),
                        "{kid} signs at {real} on {index}, published {since:?}, seed {seed}"
                    );
                }
            }
            tokens.insert(kid, real + i64::from(LIFESPAN));
        }
        tokens.retain(|_, ends| *ends > real);
        if real > START + 300 {
            for node in &nodes {
                let keys = node.ring.signing_keys(node.now(real));
                for kid in tokens.keys() {
                    assert!(keys.publishes(kid), "{kid} is gone too early, seed {seed}");
                }
            }
        }
        real += 5;
    }
    assert!((10..40).contains(&rotated), "{rotated} keys in twelve hours, seed {seed}");
    assert!(registry.rows.len() <= 6, "{:?}", registry.rows.keys());
}

#[test]
fn two_nodes_never_sign_with_a_key_that_the_other_has_not_published() {
    for seed in 1..=12 {
        two_nodes(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
    }
}

#[test]
fn of_two_nodes_that_rotate_at_once_one_wins() {
    let mut registry = Registry { rows: BTreeMap::new() };
    let both = |registry: &Registry, now| {
        let make = || ring(&registry.rows()).due(now).unwrap().remove(0);
        [make(), make()]
    };
    let [a, b] = both(&registry, START);
    assert_ne!(a.row.kid, b.row.kid);
    assert!(registry.add(a) && !registry.add(b));
    let [a, b] = both(&registry, START + 3_600);
    assert!(registry.add(a) && !registry.add(b));
    assert!(ring(&registry.rows()).due(START + 3_600).unwrap().is_empty());
    let late = ring(&registry.rows()).rotate_now(Algorithm::Es256, START + 3_600).unwrap();
    assert!(registry.add(late), "a command that knows the newest key is carried out");
}

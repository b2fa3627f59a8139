//! Choosing who stands at one rank of the lists, so that everyone gets their share.
//!
//! The lists that agree in everything above a rank form a group: they are exactly the buckets that fall
//! together when the nodes above die one after the other. Within a group each node's exact share is
//! its weight's part of the group, and it stands there that often, rounded down or up. What the
//! roundings of one group owe a node is made good in the next.
//!
//! Invariant: after [`fill`] of empty lists, and after [`even`] of any, every node's count in every
//! group is its exact share rounded down or up.
//!
//! Why groups and not the whole rank: a rank that is even on the whole can still give all buckets
//! of one node to one other. Why not largest remainders alone: each group would round up the same
//! nodes.
//!
//! Limits: below [`CAREFUL`] ranks (that many deaths before the lists are repaired once) nodes follow
//! in a circle, without regard to weight.

use super::roster::{Member, NUMBERS, Roster};
use super::rows::Row;
use testudo_packet::bucket::NodeId;

/// How many ranks are shared out group by group.
const CAREFUL: usize = 4;

/// Fills the open lists up to `length`, as far as there are nodes.
pub(super) fn fill(rows: &mut [Row], roster: &Roster, length: usize) {
    for level in 0..length.min(CAREFUL) {
        if rows.iter().any(|row| row.open && row.head.len() == level) {
            fill_level(rows, level, roster);
        }
    }
    for row in rows.iter_mut().filter(|row| row.open && row.head.len() >= CAREFUL) {
        follow_the_circle(row, roster, length);
    }
}

/// Changes who stands at `level` (not 0) until every group is even, in at most `budget` lists; returns
/// what is left of the budget.
pub(super) fn even(
    rows: &mut [Row],
    level: usize,
    roster: &Roster,
    length: usize,
    mut budget: usize,
) -> usize {
    for group in groups(rows, level, level + 1) {
        let mut places = Places::of(rows, &group, level, roster);
        while budget > 0 {
            let Some((from, to)) = places.most_uneven() else { break };
            let gives = |&&index: &&usize| rows[index].head[level] == from;
            let knows = |&&index: &&usize| rows[index].head.contains(&to);
            // A list that names the newcomer further down has its entries already.
            let index = *(group.iter().filter(gives).find(knows))
                .or_else(|| group.iter().find(gives))
                .expect("who stands too often stands somewhere");
            let row = &mut rows[index];
            row.head.retain(|&node| node != to);
            row.head.insert(level, to);
            row.head.truncate(length);
            row.open = true;
            places.exchange(from, to);
            budget -= 1;
        }
    }
    budget
}

/// The lists with at least `reach` nodes, by what stands above `level`.
fn groups(rows: &[Row], level: usize, reach: usize) -> Vec<Vec<usize>> {
    let above = |index: usize| &rows[index].head[..level];
    let mut order: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].head.len() >= reach).collect();
    order.sort_by(|&a, &b| above(a).cmp(above(b)));
    order.chunk_by(|&a, &b| above(a) == above(b)).map(Vec::from).collect()
}

fn fill_level(rows: &mut [Row], level: usize, roster: &Roster) {
    let mut owed = [0.0; NUMBERS];
    for group in groups(rows, level, level) {
        let short = |index: usize| rows[index].open && rows[index].head.len() == level;
        let short: Vec<usize> = group.iter().copied().filter(|&i| short(i)).collect();
        if short.is_empty() {
            continue;
        }
        let mut places = Places::of(rows, &group, level, roster);
        places.add_what_is_due(&mut owed);
        for index in short {
            let Some(node) = places.next(&mut owed) else { break };
            rows[index].head.push(node);
        }
    }
}

fn follow_the_circle(row: &mut Row, roster: &Roster, length: usize) {
    let last = row.head.last().copied().unwrap_or(NodeId(0));
    let turn = roster.fit.partition_point(|member| member.node <= last);
    let circle = roster.fit[turn..].iter().chain(&roster.fit[..turn]);
    let mut named = [false; NUMBERS];
    row.head.iter().for_each(|node| named[usize::from(node.0)] = true);
    for member in circle.filter(|member| !named[usize::from(member.node.0)]) {
        if row.head.len() >= length {
            break;
        }
        row.head.push(member.node);
    }
}

/// One node's places in a group.
struct Place {
    node: NodeId,
    weight: u64,
    count: u64,
    /// The exact share, rounded down and up.
    floor: u64,
    ceil: u64,
}

/// Who stands how often at one rank of a group, and how often they should.
struct Places {
    size: u64,
    weight: u64,
    /// In the order of the circle behind the node above.
    places: Vec<Place>,
}

impl Places {
    fn of(rows: &[Row], group: &[usize], level: usize, roster: &Roster) -> Self {
        let above = group.first().map_or(&[][..], |&index| &rows[index].head[..level]);
        let pool = if level == 0 { &roster.owners } else { &roster.fit };
        let turn = above.last().map_or(0, |last| pool.partition_point(|m| m.node <= *last));
        let circle = pool[turn..].iter().chain(&pool[..turn]);
        let members: Vec<Member> =
            circle.filter(|member| !above.contains(&member.node)).copied().collect();
        let mut counts = [0; NUMBERS];
        for node in group.iter().filter_map(|&index| rows[index].head.get(level)) {
            counts[usize::from(node.0)] += 1;
        }
        let size = group.len() as u64;
        let weight: u64 = members.iter().map(|member| member.weight).sum();
        let place = |m: Member| Place {
            node: m.node,
            weight: m.weight,
            count: counts[usize::from(m.node.0)],
            floor: size * m.weight / weight,
            ceil: (size * m.weight).div_ceil(weight),
        };
        Self { size, weight, places: members.into_iter().map(place).collect() }
    }

    fn share(&self, place: &Place) -> f64 {
        (self.size * place.weight) as f64 / self.weight as f64
    }

    /// Notes what this group should give everyone beyond what they have in it.
    fn add_what_is_due(&self, owed: &mut [f64; NUMBERS]) {
        for place in &self.places {
            owed[usize::from(place.node.0)] += self.share(place) - place.count as f64;
        }
    }

    /// Who gets the next place: whoever lacks most of the share rounded down, then whoever is owed most
    /// and lacks the rounding up. Nobody only if there are no nodes.
    fn next(&mut self, owed: &mut [f64; NUMBERS]) -> Option<NodeId> {
        // In millionths of a bucket, so that sums of equal shares compare as equal.
        let debt = |place: &Place| (owed[usize::from(place.node.0)] * 1e6).round() as i64;
        let key = |place: &Place| {
            (place.floor.saturating_sub(place.count), place.count < place.ceil, debt(place))
        };
        // Of equals the first in the circle: `max_by_key` would take the last.
        let place = self.places.iter_mut().rev().max_by_key(|place| key(place))?;
        place.count += 1;
        owed[usize::from(place.node.0)] -= 1.0;
        Some(place.node)
    }

    /// Who stands too often and who too rarely, if someone does by more than rounding.
    fn most_uneven(&self) -> Option<(NodeId, NodeId)> {
        let uneven = |place: &Place| place.count < place.floor || place.count > place.ceil;
        if !self.places.iter().any(uneven) {
            return None;
        }
        let excess = |place: &&Place| place.count as f64 - self.share(place);
        let most = self.places.iter().max_by(|a, b| excess(a).total_cmp(&excess(b)))?;
        let least = self.places.iter().min_by(|a, b| excess(a).total_cmp(&excess(b)))?;
        Some((most.node, least.node))
    }

    fn exchange(&mut self, from: NodeId, to: NodeId) {
        for place in &mut self.places {
            place.count -= u64::from(place.node == from);
            place.count += u64::from(place.node == to);
        }
    }
}

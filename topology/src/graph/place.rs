//! Where the boxes of a picture stand: rows of switches, and below them columns of what hangs on the leaves.
//!
//! ```text
//!        controllers, what else hangs on spines
//!               spines
//!    leaf1       leaf2       leaf3
//!     ├ host1   ┤ both ├      ├ host4        a column holds the nodes with the same leaves
//!     └ host2                 └ host5
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::lab::{Lab, Node, Role};
use crate::plan::Plan;

/// Height of a switch's box and of the others', pixels.
const SWITCH_HEIGHT: i32 = 50;
const END_HEIGHT: i32 = 36;
/// Space for one port's name at the edge of a box.
const PORT: i32 = 32;
/// Ports of a row's box that widen it; with more their names are left out.
const MAX_PORTS: i32 = 16;
/// Free space around the picture.
pub(super) const MARGIN: i32 = 24;
/// Between two lanes.
pub(super) const LANE: i32 = 9;

/// A row or a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    Top,
    Spine,
    Leaf,
    /// In the column of this number.
    Column(usize),
}

/// A node's box.
pub(super) struct Place<'a> {
    pub(super) node: &'a Node,
    pub(super) spot: Spot,
    pub(super) lines: Vec<String>,
    pub(super) x: i32,
    pub(super) y: i32,
    pub(super) w: i32,
    pub(super) h: i32,
}

impl Place<'_> {
    pub(super) fn middle(&self) -> i32 {
        self.x + self.w / 2
    }
}

/// What runs up and down beside a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// All links of the column's nodes to the leaf of this number.
    Leaf(usize),
    /// One link that goes elsewhere.
    Link(usize),
}

/// A column and the lanes at its sides, the innermost first.
pub(super) struct Column {
    pub(super) members: Vec<usize>,
    pub(super) left: Vec<Lane>,
    pub(super) right: Vec<Lane>,
    leaves: Vec<usize>,
    x: i32,
}

/// A picture with all boxes in their place.
pub(super) struct Layout<'a> {
    pub(super) places: Vec<Place<'a>>,
    pub(super) columns: Vec<Column>,
    pub(super) index: BTreeMap<&'a str, usize>,
    /// Length of the line between a lane and a box.
    pub(super) stub: i32,
    pub(super) width: i32,
    /// Upper end of the channel between the leaves and the columns.
    pub(super) channel: i32,
    pub(super) bottom: i32,
}

/// Width of text, pixels; wider than most fonts need.
pub(super) fn text_width(text: &str, size: i32) -> i32 {
    let length = i32::try_from(text.chars().count()).unwrap_or(i32::MAX / 64);
    (length * size * 64).saturating_add(99) / 100
}

/// Both ends of every link that joins two different nodes, with the link's number.
pub(super) fn pairs<'a>(
    lab: &'a Lab,
    index: &BTreeMap<&str, usize>,
) -> Vec<(usize, usize, usize, &'a str, &'a str)> {
    let of = |(i, link): (usize, &'a crate::lab::Link)| {
        let b = link.b.as_ref()?;
        let (x, y) = (*index.get(link.a.node.as_str())?, *index.get(b.node.as_str())?);
        (x != y).then_some((i, x, y, link.a.interface.as_str(), b.interface.as_str()))
    };
    lab.links.iter().enumerate().filter_map(of).collect()
}

impl<'a> Layout<'a> {
    pub(super) fn new(
        lab: &'a Lab,
        plan: Option<&Plan>,
        lines: impl Fn(&Node, Option<&Plan>) -> Vec<String>,
    ) -> Self {
        let nodes = lab.nodes_in_order();
        let index: BTreeMap<&str, usize> =
            nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
        let mut neighbours: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); nodes.len()];
        let mut ports = vec![0; nodes.len()];
        let links = pairs(lab, &index);
        for (_, a, b, ..) in &links {
            neighbours[*a].insert(*b);
            neighbours[*b].insert(*a);
            ports[*a] += 1;
            ports[*b] += 1;
        }
        let (spots, columns) = spots(&nodes, &neighbours);
        // A leaf's ports to its columns need no names at its edge: they stand beside the boxes there.
        for (_, a, b, ..) in &links {
            for (own, other) in [(*a, *b), (*b, *a)] {
                if matches!(spots[other], Spot::Column(_)) && ports[own] > 0 {
                    ports[own] -= 1;
                }
            }
        }
        let place = |(i, node): (usize, &&'a Node)| {
            let lines = lines(node, plan);
            let row = !matches!(spots[i], Spot::Column(_));
            let text = lines
                .iter()
                .enumerate()
                .map(|(n, l)| text_width(l, if n == 0 { 13 } else { 10 }))
                .max()
                .unwrap_or(0);
            let edge = if row && ports[i] <= MAX_PORTS { ports[i] * PORT } else { 0 };
            let h = if row { SWITCH_HEIGHT } else { END_HEIGHT };
            Place { node, spot: spots[i], lines, x: 0, y: 0, w: (text + 20).max(edge).max(96), h }
        };
        let places: Vec<Place<'a>> = nodes.iter().enumerate().map(place).collect();
        let names = links.iter().map(|(_, _, _, a, b)| text_width(&format!("{a} – {b}"), 8));
        let stub = names.filter(|w| *w <= 110).max().unwrap_or(0).max(24) + 8;
        let mut layout = Layout { places, columns, index, stub, width: 0, channel: 0, bottom: 0 };
        layout.lanes(&links);
        layout.widths();
        layout
    }

    /// Which lanes each column needs: leaves alternate between left and right; other links run at the right.
    fn lanes(&mut self, links: &[(usize, usize, usize, &str, &str)]) {
        for column in &mut self.columns {
            for (n, leaf) in column.leaves.iter().enumerate() {
                let side = if n % 2 == 0 { &mut column.left } else { &mut column.right };
                side.push(Lane::Leaf(*leaf));
            }
        }
        for (link, a, b, ..) in links {
            let spot = |i: &usize| self.places.get(*i).map(|p| p.spot);
            for (own, other) in [(a, b), (b, a)] {
                let (Some(Spot::Column(c)), Some(other)) = (spot(own), spot(other)) else { continue };
                let same = other == Spot::Column(c);
                if other != Spot::Leaf
                    && (!same || own < if own == a { b } else { a })
                    && let Some(column) = self.columns.get_mut(c)
                {
                    column.right.push(Lane::Link(*link));
                }
            }
        }
    }

    /// Columns from left to right, leaves above theirs, the other rows centred.
    fn widths(&mut self) {
        let mut x = MARGIN;
        let stub = self.stub;
        let side = |lanes: usize| if lanes == 0 { 0 } else { stub + to_i32(lanes) * LANE };
        for column in &mut self.columns {
            x += side(column.left.len());
            column.x = x;
            let w = column.members.iter().filter_map(|m| self.places.get(*m)).map(|p| p.w).max().unwrap_or(0);
            for member in &column.members {
                if let Some(place) = self.places.get_mut(*member) {
                    (place.x, place.w) = (x, w);
                }
            }
            x += w + side(column.right.len()) + 22;
        }
        let mut right = MARGIN;
        for i in self.row(Spot::Leaf) {
            let own = self.columns.iter().filter(|c| c.leaves.contains(&i));
            let (mut sum, mut count) = (0, 0);
            for column in own {
                // A leaf with a column of its own stands above it.
                let weight = if column.leaves.len() == 1 { 100 } else { 1 };
                let w = column.members.first().and_then(|m| self.places.get(*m)).map_or(0, |p| p.w);
                sum += weight * (column.x + w / 2);
                count += weight;
            }
            if let Some(place) = self.places.get_mut(i) {
                let wanted = if count == 0 { right } else { sum / count - place.w / 2 };
                place.x = wanted.max(right);
                right = place.x + place.w + 36;
            }
        }
        self.width = (x - 22).max(right - 36).max(340 - MARGIN);
        let leaves = self.row(Spot::Leaf);
        let ends = leaves
            .first()
            .zip(leaves.last())
            .and_then(|(a, b)| Some((self.places.get(*a)?.x, self.places.get(*b)?)));
        let middle = ends.map_or(self.width / 2, |(a, b)| (a + b.x + b.w) / 2);
        for spot in [Spot::Spine, Spot::Top] {
            self.centre(spot, middle);
        }
        self.width = self.places.iter().map(|p| p.x + p.w).max().unwrap_or(0).max(self.width);
    }

    fn centre(&mut self, spot: Spot, middle: i32) {
        let row = self.row(spot);
        let total: i32 = row.iter().filter_map(|i| self.places.get(*i)).map(|p| p.w + 60).sum::<i32>() - 60;
        let mut x = (middle - total / 2).max(MARGIN);
        for i in row {
            if let Some(place) = self.places.get_mut(i) {
                place.x = x;
                x += place.w + 60;
            }
        }
    }

    /// Heights, once it is known how much the channel and the rows' own links need.
    pub(super) fn heights(&mut self, top: i32, channel: i32) {
        let mut y = top;
        let leaves = to_i32(self.row(Spot::Leaf).len());
        for (spot, gap) in [(Spot::Top, 84), (Spot::Spine, (80 + 6 * leaves).min(170)), (Spot::Leaf, 18)] {
            let row = self.row(spot);
            for i in &row {
                if let Some(place) = self.places.get_mut(*i) {
                    place.y = y;
                }
            }
            if !row.is_empty() {
                y += SWITCH_HEIGHT + gap;
            }
        }
        self.channel = y;
        let first = y + channel + 12;
        let mut bottom = if self.columns.is_empty() { y + channel } else { first };
        for column in &self.columns {
            for (n, member) in column.members.iter().enumerate() {
                if let Some(place) = self.places.get_mut(*member) {
                    place.y = first + to_i32(n) * (END_HEIGHT + 14);
                    bottom = bottom.max(place.y + place.h);
                }
            }
        }
        self.bottom = bottom;
    }

    /// The nodes of a row from left to right.
    pub(super) fn row(&self, spot: Spot) -> Vec<usize> {
        (0..self.places.len()).filter(|i| self.places.get(*i).is_some_and(|p| p.spot == spot)).collect()
    }
}

pub(super) fn to_i32(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX / 1024)
}

/// Rows and columns. Without switches those with two neighbours stand in for leaves.
fn spots(nodes: &[&Node], neighbours: &[BTreeSet<usize>]) -> (Vec<Spot>, Vec<Column>) {
    let mut row: Vec<Option<Spot>> = nodes
        .iter()
        .map(|n| match n.role {
            Role::Spine => Some(Spot::Spine),
            Role::Leaf | Role::Border => Some(Spot::Leaf),
            _ => None,
        })
        .collect();
    let mut keys: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for round in 0..2 {
        settle(neighbours, &mut row, &mut keys);
        if round == 0 {
            let open: Vec<usize> =
                (0..nodes.len()).filter(|i| row[*i].is_none() && !keys.contains_key(i)).collect();
            open.into_iter().filter(|i| neighbours[*i].len() > 1).for_each(|i| row[i] = Some(Spot::Leaf));
        }
    }
    let mut groups: BTreeMap<(i64, Vec<usize>), Vec<usize>> = BTreeMap::new();
    let order: BTreeMap<usize, i64> =
        (0..nodes.len()).filter(|i| row[*i] == Some(Spot::Leaf)).zip(0i64..).collect();
    for i in (0..nodes.len()).filter(|i| row[*i].is_none()) {
        let key = keys.get(&i).cloned().unwrap_or_default();
        let sum: i64 = key.iter().filter_map(|l| order.get(l)).sum();
        let mean = i64::try_from(key.len()).ok().filter(|n| *n > 0).map_or(i64::MAX, |n| sum * 1000 / n);
        groups.entry((mean, key)).or_default().push(i);
    }
    let total = groups.values().map(Vec::len).sum::<usize>();
    // About as wide as high.
    let rows = (4..12)
        .find(|rows| groups.values().map(|g| g.len().div_ceil(*rows)).sum::<usize>() <= 9.max(total / 12))
        .unwrap_or(12);
    let mut columns = Vec::new();
    for ((_, leaves), members) in groups {
        for part in members.chunks(rows) {
            part.iter().for_each(|i| row[*i] = Some(Spot::Column(columns.len())));
            columns.push(Column {
                members: part.to_vec(),
                left: Vec::new(),
                right: Vec::new(),
                leaves: leaves.clone(),
                x: 0,
            });
        }
    }
    (row.into_iter().map(|s| s.unwrap_or(Spot::Top)).collect(), columns)
}

/// What hangs on leaves gets them as its key; what hangs on spines only goes to the top; what hangs on others goes
/// where these are.
fn settle(neighbours: &[BTreeSet<usize>], row: &mut [Option<Spot>], keys: &mut BTreeMap<usize, Vec<usize>>) {
    for i in 0..row.len() {
        let leaves: Vec<usize> =
            neighbours[i].iter().copied().filter(|n| row[*n] == Some(Spot::Leaf)).collect();
        if row[i].is_none() && !leaves.is_empty() {
            keys.insert(i, leaves);
        } else if row[i].is_none() && neighbours[i].iter().any(|n| row[*n] == Some(Spot::Spine)) {
            row[i] = Some(Spot::Top);
        }
    }
    loop {
        let next = (0..row.len()).find_map(|i| {
            let free = row[i].is_none() && !keys.contains_key(&i);
            let from = neighbours[i].iter().find_map(|n| keys.get(n));
            from.filter(|_| free).map(|key| (i, key.clone()))
        });
        match next {
            Some((i, key)) => keys.insert(i, key),
            None => break,
        };
    }
}

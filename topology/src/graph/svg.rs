//! A picture of a lab as SVG: boxes in rows, lines between them that cross no box, a legend.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::place::{LANE, Lane, Layout, MARGIN, Place, Spot, pairs, text_width, to_i32};
use crate::lab::{Lab, Link, Role};
use crate::plan::{InterfaceUse, Plan};
use look::{Line, colours, describe, escape, write_box};

mod look;

/// Draws a lab. With its plan the boxes have AS numbers and tunnel ends. The same lab gives the same bytes.
pub fn svg(lab: &Lab, plan: Option<&Plan>) -> String {
    let layout = Layout::new(lab, plan, describe);
    Drawing { lab, plan, layout, lines: String::new(), words: String::new() }.draw()
}

struct Drawing<'a> {
    lab: &'a Lab,
    plan: Option<&'a Plan>,
    layout: Layout<'a>,
    lines: String,
    /// Names at the ends of links; above all lines.
    words: String,
}

/// A link between two rows' boxes: number, upper and lower box, interfaces there.
type Straight<'a> = (usize, usize, usize, &'a str, &'a str);

/// The way from a leaf to a column: down at `from`, along a row of the channel, down at `to`.
struct Run {
    from: i32,
    to: i32,
    leaf: usize,
    column: usize,
    kind: Line,
    row: i32,
}

impl<'a> Drawing<'a> {
    fn draw(mut self) -> String {
        let all = pairs(self.lab, &self.layout.index);
        let (mut straight, mut level, mut far) = (Vec::new(), Vec::new(), Vec::new());
        let mut buses: BTreeMap<(usize, usize), Line> = BTreeMap::new();
        for (link, a, b, ia, ib) in all {
            let (upper, lower) =
                if self.spot(a) <= self.spot(b) { ((a, ia), (b, ib)) } else { ((b, ib), (a, ia)) };
            let entry = (link, upper.0, lower.0, upper.1, lower.1);
            match (self.spot(upper.0), self.spot(lower.0)) {
                (Spot::Top, Spot::Spine) | (Spot::Spine, Spot::Leaf) => straight.push(entry),
                (Spot::Leaf, Spot::Column(c)) => {
                    let kind = self.kind(link);
                    let bus = buses.entry((upper.0, c)).or_insert(kind);
                    *bus = kind.min(*bus);
                }
                (x, y) if x == y && !matches!(x, Spot::Column(_)) => level.push(entry),
                _ => far.push(entry),
            }
        }
        let (runs, used) = self.runs(&buses);
        self.layout.heights(52, (used + to_i32(far.len()) + 1) * LANE);
        self.straight(&straight);
        self.level(&level);
        self.buses(&runs);
        self.far(&far, used);
        self.stubs();
        self.finish()
    }

    fn spot(&self, i: usize) -> Spot {
        self.layout.places.get(i).map_or(Spot::Top, |p| p.spot)
    }

    fn place(&self, i: usize) -> Option<&Place<'a>> {
        self.layout.places.get(i)
    }

    fn kind(&self, link: usize) -> Line {
        let end = self.lab.links.get(link).map(|l: &Link| (&l.a.node, &l.a.interface));
        let usage = end.and_then(|(node, name)| {
            let own = self.plan?.nodes.get(node)?;
            own.interfaces.iter().find(|i| i.link == link && i.name == *name).map(|i| i.usage)
        });
        match usage {
            Some(InterfaceUse::Underlay) => Line::Underlay,
            Some(InterfaceUse::Access(_) | InterfaceUse::Trunk) => Line::Access,
            _ => Line::Other,
        }
    }

    fn path(&mut self, kind: Line, d: &str) {
        let (_, colour, dash) = kind.look();
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        let _ = writeln!(self.lines, "<path d=\"{d}\" stroke=\"{colour}\"{dash}/>");
    }

    fn word(&mut self, x: i32, y: i32, text: &str) {
        let _ = writeln!(self.words, "<text x=\"{x}\" y=\"{y}\" class=\"p\">{}</text>", escape(text));
    }

    /// Lines between neighbouring rows; ports of a box in the order of what they lead to.
    fn straight(&mut self, links: &[Straight<'_>]) {
        let middle = |i: usize| self.place(i).map_or(0, Place::middle);
        let ports = |box_of: fn(&Straight<'_>) -> usize, other: fn(&Straight<'_>) -> usize| {
            let mut ports: BTreeMap<usize, Vec<(i32, usize)>> = BTreeMap::new();
            for link in links {
                ports.entry(box_of(link)).or_default().push((middle(other(link)), link.0));
            }
            ports.values_mut().for_each(|p| p.sort_unstable());
            ports
        };
        let lower = ports(|l| l.1, |l| l.2);
        let upper = ports(|l| l.2, |l| l.1);
        // Not in the middle of a box where a line would go straight into its neighbour's port name.
        let at = |place: &Place<'_>, ports: &[(i32, usize)], link: usize| {
            let n = ports.iter().position(|(_, l)| *l == link).unwrap_or(0);
            let step = place.w / (to_i32(ports.len()) + 1);
            (place.x + step * (to_i32(n) + 1), step)
        };
        let mut drawn = Vec::new();
        for (link, a, b, ia, ib) in links {
            let (Some(pa), Some(pb)) = (self.place(*a), self.place(*b)) else { continue };
            let empty = Vec::new();
            let (x1, s1) = at(pa, lower.get(a).unwrap_or(&empty), *link);
            let (x2, s2) = at(pb, upper.get(b).unwrap_or(&empty), *link);
            drawn.push((*link, (x1, pa.y + pa.h, s1, *ia), (x2, pb.y, s2, *ib)));
        }
        for (link, (x1, y1, s1, ia), (x2, y2, s2, ib)) in drawn {
            self.path(self.kind(link), &format!("M{x1} {y1}L{x2} {y2}"));
            for (x, y, room, name) in [(x1, y1 + 11, s1, ia), (x2, y2 - 5, s2, ib)] {
                if text_width(name, 8) + 2 <= room {
                    self.word(x, y, name);
                }
            }
        }
    }

    /// Links inside of a row: across the gap between neighbours, else below the row.
    fn level(&mut self, links: &[Straight<'_>]) {
        let mut across: BTreeMap<(usize, usize), i32> = BTreeMap::new();
        let mut depth = 0;
        for (link, a, b, ia, ib) in links {
            let row = self.layout.row(self.spot(*a));
            let at = |i: &usize| row.iter().position(|r| r == i).unwrap_or(0);
            let (a, b, ia, ib) = if at(a) < at(b) { (a, b, ia, ib) } else { (b, a, ib, ia) };
            let (Some(pa), Some(pb)) = (self.place(*a), self.place(*b)) else { continue };
            let (right, left, top, bottom) = (pa.x + pa.w, pb.x, pa.y, pa.y + pa.h);
            let (xa, xb) = (right - 8 - 6 * depth, left + 8 + 6 * depth);
            if at(b) == at(a) + 1 {
                let n = across.entry((*a, *b)).or_insert(0);
                let y = top + 10 + (*n * 10) % 38;
                *n += 1;
                self.path(self.kind(*link), &format!("M{right} {y}L{left} {y}"));
                let text = format!("{ia} – {ib}");
                if text_width(&text, 8) + 4 <= left - right {
                    self.word(i32::midpoint(left, right), y - 3, &text);
                }
            } else {
                let y = bottom + 6 + 3 * (depth % 5);
                depth = (depth + 1) % 10;
                self.path(self.kind(*link), &format!("M{xa} {bottom}V{y}H{xb}V{bottom}"));
            }
        }
    }

    /// The x of a lane beside a column.
    fn lane(&self, column: usize, lane: Lane) -> Option<i32> {
        let column = self.layout.columns.get(column)?;
        let first = column.members.first().and_then(|m| self.place(*m))?;
        let at = |lanes: &[Lane]| lanes.iter().position(|l| *l == lane).map(to_i32);
        match (at(&column.left), at(&column.right)) {
            (Some(n), _) => Some(first.x - self.layout.stub - n * LANE),
            (None, Some(n)) => Some(first.x + first.w + self.layout.stub + n * LANE),
            (None, None) => None,
        }
    }

    /// The way of each leaf to its columns, and the number of rows of the channel that they need: two that overlap are not
    /// in one row.
    fn runs(&self, buses: &BTreeMap<(usize, usize), Line>) -> (Vec<Run>, i32) {
        let mut by_leaf: BTreeMap<usize, Vec<(i32, usize, Line)>> = BTreeMap::new();
        for ((leaf, column), kind) in buses {
            if let Some(x) = self.lane(*column, Lane::Leaf(*leaf)) {
                by_leaf.entry(*leaf).or_default().push((x, *column, *kind));
            }
        }
        let mut runs: Vec<Run> = Vec::new();
        for (leaf, mut targets) in by_leaf {
            let Some(place) = self.place(leaf) else { continue };
            targets.sort_unstable();
            let step = place.w / (to_i32(targets.len()) + 1);
            for (n, (to, column, kind)) in targets.into_iter().enumerate() {
                runs.push(Run { from: place.x + step * (to_i32(n) + 1), to, leaf, column, kind, row: 0 });
            }
        }
        runs.sort_by_key(|r| (r.from.min(r.to), r.from, r.to));
        let mut rows: Vec<i32> = Vec::new();
        for run in &mut runs {
            let (low, high) = (run.from.min(run.to), run.from.max(run.to));
            let row = rows.iter().position(|free| *free < low).unwrap_or(rows.len());
            match rows.get_mut(row) {
                Some(free) => *free = high + 6,
                None => rows.push(high + 6),
            }
            run.row = to_i32(row);
        }
        (runs, to_i32(rows.len()))
    }

    /// From each leaf down to its columns and along them.
    fn buses(&mut self, runs: &[Run]) {
        for run in runs {
            let y = self.layout.channel + run.row * LANE;
            let top = self.place(run.leaf).map_or(0, |p| p.y + p.h);
            let end = self.end(run.column, Lane::Leaf(run.leaf));
            self.path(run.kind, &format!("M{} {top}V{y}H{}V{end}", run.from, run.to));
        }
    }

    /// Where a lane ends: at the lowest box that uses it.
    fn end(&self, column: usize, lane: Lane) -> i32 {
        let members = self.layout.columns.get(column).map_or(&[][..], |c| &c.members);
        let uses = |m: usize| {
            self.ports(m).into_iter().filter(|(_, l, ..)| *l == lane).map(|(y, ..)| y).collect::<Vec<_>>()
        };
        members.iter().flat_map(|m| uses(*m)).max().unwrap_or(self.layout.channel)
    }

    /// The ports of a box in a column: y, lane, link, name at both ends.
    fn ports(&self, member: usize) -> Vec<(i32, Lane, usize, String)> {
        let Some(place) = self.place(member) else { return Vec::new() };
        let Spot::Column(column) = place.spot else { return Vec::new() };
        let mut sides: [Vec<(Lane, usize, String)>; 2] = [Vec::new(), Vec::new()];
        for (link, a, b, ia, ib) in pairs(self.lab, &self.layout.index) {
            let (other, text) = match member {
                m if m == a => (b, format!("{ib} – {ia}")),
                m if m == b => (a, format!("{ia} – {ib}")),
                _ => continue,
            };
            let lane = if self.spot(other) == Spot::Leaf { Lane::Leaf(other) } else { Lane::Link(link) };
            let left = self.layout.columns.get(column).is_some_and(|c| c.left.contains(&lane));
            if let Some(side) = sides.get_mut(usize::from(!left)) {
                side.push((lane, link, text));
            }
        }
        let mut all = Vec::new();
        for side in sides {
            let step = place.h / (to_i32(side.len()) + 1);
            for (n, (lane, link, text)) in side.into_iter().enumerate() {
                all.push((place.y + step.max(1) * (to_i32(n) + 1).min(place.h), lane, link, text));
            }
        }
        all
    }

    /// The lines between boxes in columns and their lanes.
    fn stubs(&mut self) {
        for member in 0..self.layout.places.len() {
            let Some((place, Spot::Column(column))) = self.place(member).map(|p| (p, p.spot)) else {
                continue;
            };
            let (left, right) = (place.x, place.x + place.w);
            let ports = self.ports(member);
            for (y, lane, link, text) in &ports {
                let Some(x) = self.lane(column, *lane) else { continue };
                let edge = if x < left { left } else { right };
                self.path(self.kind(*link), &format!("M{x} {y}H{edge}"));
                let beside = ports
                    .iter()
                    .filter(|(_, l, ..)| self.lane(column, *l).is_some_and(|o| (o < left) == (x < left)))
                    .count();
                if text_width(text, 8) + 4 <= self.layout.stub && beside <= 3 {
                    let shift =
                        if x < left { left - self.layout.stub / 2 } else { right + self.layout.stub / 2 };
                    self.word(shift, y - 3, text);
                }
            }
        }
    }

    /// What neither joins neighbouring rows nor a leaf and its column: by the channel, and to rows further up around the
    /// right side.
    fn far(&mut self, links: &[Straight<'_>], used: i32) {
        let edge = self.layout.width + 14;
        for (n, (link, a, b, ..)) in links.iter().enumerate() {
            let n = to_i32(n);
            let channel = self.layout.channel + (used + n) * LANE;
            let kind = self.kind(*link);
            let port = |i: usize| {
                self.ports(i).into_iter().find(|(_, l, ..)| *l == Lane::Link(*link)).map(|(y, ..)| y)
            };
            let lane = |i: usize| match self.spot(i) {
                Spot::Column(c) => self.lane(c, Lane::Link(*link)),
                _ => None,
            };
            let d = match ((lane(*a), port(*a)), (lane(*b), port(*b))) {
                ((Some(x), Some(y1)), (Some(z), Some(y2))) if x == z => format!("M{x} {y1}V{y2}"),
                ((Some(x), Some(y1)), (Some(z), Some(y2))) => format!("M{x} {y1}V{channel}H{z}V{y2}"),
                (_, (Some(z), Some(y2))) => {
                    let Some(place) = self.place(*a) else { continue };
                    let (x, out) = (place.x + place.w, edge + n * 6);
                    format!("M{x} {y}H{out}V{channel}H{z}V{y2}", y = place.y + place.h / 2)
                }
                _ => {
                    let (Some(up), Some(low)) = (self.place(*a), self.place(*b)) else { continue };
                    let out = edge + n * 6;
                    let (y1, y2) = (up.y + up.h / 2, low.y + low.h / 2);
                    format!("M{} {y1}H{out}V{y2}H{}", up.x + up.w, low.x + low.w)
                }
            };
            self.path(kind, &d);
            self.layout.width = self.layout.width.max(if d.contains(&format!("H{}", edge + n * 6)) {
                edge + n * 6
            } else {
                0
            });
        }
    }

    fn finish(self) -> String {
        let (mut boxes, layout) = (String::new(), &self.layout);
        for place in &layout.places {
            write_box(&mut boxes, place);
        }
        let y = layout.bottom + 30;
        let (legend, right) = self.legend(y);
        let (width, height) = (layout.width.max(right) + MARGIN, y + 28);
        let name = escape(&self.lab.name);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
             <title>{name}</title>\n\
             <style>text{{font-family:'DejaVu Sans',Verdana,Helvetica,Arial,sans-serif;text-anchor:middle;font-size:10px}}\
             .n{{font-size:13px;font-weight:bold}}.p{{font-size:8px;fill:#222222;stroke:#ffffff;stroke-width:2.5px;paint-order:stroke}}\
             .l{{text-anchor:start}}.t{{font-size:16px;font-weight:bold;text-anchor:start}}path{{fill:none;stroke-width:1.3}}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{MARGIN}\" y=\"30\" class=\"t\">{name}</text>\n{}{boxes}{}{legend}</svg>\n",
            self.lines, self.words
        )
    }

    /// The roles and kinds of links that occur, and how far they reach to the right.
    fn legend(&self, y: i32) -> (String, i32) {
        let (mut out, mut x) = (String::new(), MARGIN);
        let roles = Role::ALL.into_iter().filter(|r| self.lab.nodes.values().any(|n| n.role == *r));
        for role in roles {
            let (fill, _) = colours(role);
            let dash = if role == Role::Other { " stroke-dasharray=\"4 2\"" } else { "" };
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"12\" rx=\"2\" fill=\"{fill}\" stroke=\"#333333\"{dash}/>"
            );
            let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" class=\"l\">{role}</text>", x + 19, y + 10);
            x += 19 + text_width(role.word(), 10) + 14;
        }
        let mut kinds: Vec<Line> = (0..self.lab.links.len()).map(|l| self.kind(l)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let (name, colour, dash) = kind.look();
            let mid = y + 6;
            let _ = writeln!(
                out,
                "<path d=\"M{x} {mid}H{}\" stroke=\"{colour}\" stroke-dasharray=\"{}\"/>",
                x + 24,
                if dash.is_empty() { "none" } else { dash }
            );
            let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" class=\"l\">{name}</text>", x + 29, y + 10);
            x += 29 + text_width(name, 10) + 14;
        }
        (out, x)
    }
}

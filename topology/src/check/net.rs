//! The lab as a graph: nodes and the links between them.

use std::collections::BTreeMap;

use crate::lab::{Lab, Link, LinkKind, Node};

/// Nodes in the order of the file and who is linked to whom.
pub(super) struct Net<'a> {
    pub(super) nodes: Vec<&'a Node>,
    /// For each node its neighbours, once per link; a link to itself does not count.
    neighbours: Vec<Vec<usize>>,
}

impl<'a> Net<'a> {
    /// The graph of the links that `wanted` accepts.
    pub(super) fn new(lab: &'a Lab, wanted: impl Fn(&Link) -> bool) -> Self {
        let nodes = lab.nodes_in_order();
        let index: BTreeMap<&str, usize> =
            nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
        let mut neighbours = vec![Vec::new(); nodes.len()];
        for link in lab.links.iter().filter(|l| l.kind == LinkKind::Veth && wanted(l)) {
            let Some(b) = &link.b else { continue };
            let ends = (index.get(link.a.node.as_str()), index.get(b.node.as_str()));
            let (Some(&a), Some(&b)) = ends else { continue };
            if a != b {
                for (from, to) in [(a, b), (b, a)] {
                    if let Some(all) = neighbours.get_mut(from) {
                        all.push(to);
                    }
                }
            }
        }
        Net { nodes, neighbours }
    }

    /// The parts of the graph when `without` is gone, each in the order of the file, the largest first.
    pub(super) fn parts(&self, without: Option<usize>) -> Vec<Vec<usize>> {
        let mut seen = vec![false; self.nodes.len()];
        let mut parts = Vec::new();
        for start in 0..self.nodes.len() {
            let mut part = Vec::new();
            let mut open = vec![start];
            while let Some(node) = open.pop() {
                let Some(seen) = seen.get_mut(node).filter(|s| !**s && Some(node) != without) else {
                    continue;
                };
                *seen = true;
                part.push(node);
                open.extend(self.of(node));
            }
            if !part.is_empty() {
                part.sort_unstable();
                parts.push(part);
            }
        }
        parts.sort_by_key(|p| std::cmp::Reverse(p.len()));
        parts
    }

    /// The neighbours of a node, once per link.
    pub(super) fn of(&self, node: usize) -> &[usize] {
        self.neighbours.get(node).map_or(&[], Vec::as_slice)
    }

    pub(super) fn node(&self, index: usize) -> Option<&'a Node> {
        self.nodes.get(index).copied()
    }
}

/// Sets that are joined one by one.
pub(super) struct Sets<T>(BTreeMap<T, T>);

impl<T: Ord + Copy> Sets<T> {
    pub(super) fn new() -> Self {
        Sets(BTreeMap::new())
    }

    /// The one that stands for the set of `x`.
    pub(super) fn root(&mut self, x: T) -> T {
        let mut root = x;
        while let Some(&up) = self.0.get(&root).filter(|up| **up != root) {
            root = up;
        }
        // Shorter next time.
        let mut at = x;
        while at != root {
            at = self.0.insert(at, root).unwrap_or(root);
        }
        root
    }

    /// Joins two sets; false if they were one already.
    pub(super) fn join(&mut self, a: T, b: T) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            self.0.insert(a, b);
        }
        a != b
    }
}

//! Stages of nodes, what they wait for, and health checks.

use std::collections::BTreeMap;

use crate::context::{Context, Text, shorten};
use crate::inherit::Chain;
use crate::keys;
use crate::lab::{Healthcheck, Node, Phase, Stage, StageExec, StageName, Target, WaitFor};
use crate::node::check_command;
use crate::suggest::did_you_mean;
use crate::value::Value;

/// The stages of a node: the most specific level that has any.
pub(crate) fn stages(cx: &mut Context<'_>, chain: &Chain<'_, '_>, node: &str) -> BTreeMap<StageName, Stage> {
    let Some((what, value)) = chain.value("stages") else { return BTreeMap::new() };
    let mut stages = BTreeMap::new();
    for (key, value) in cx.map(&what, value) {
        let text = Text { text: key.text.clone(), span: key.span };
        if let Some(name) = stage_name(cx, &text) {
            stages.insert(name, stage(cx, &format!("stage '{name}' of {what}"), value, node));
        }
    }
    stages
}

fn stage_name(cx: &mut Context<'_>, text: &Text) -> Option<StageName> {
    let found = StageName::ALL.into_iter().find(|s| s.word() == text.text);
    if found.is_none() {
        let hint = did_you_mean(&text.text, StageName::ALL.into_iter().map(StageName::word));
        cx.error(text.span, format!("there is no stage '{}'{hint}", shorten(&text.text)));
    }
    found
}

fn stage(cx: &mut Context<'_>, what: &str, value: &Value, node: &str) -> Stage {
    let mut stage = Stage::default();
    for (key, value) in cx.fields(what, value, keys::STAGE) {
        let items: Vec<&Value> = cx.list(&format!("{} of {what}", key.text), value).iter().collect();
        for item in items {
            if key.text == "exec" {
                stage.exec.extend(stage_exec(cx, what, item, node));
            } else {
                stage.wait_for.extend(wait_for(cx, what, item));
            }
        }
    }
    stage
}

fn stage_exec(cx: &mut Context<'_>, what: &str, item: &Value, node: &str) -> Option<StageExec> {
    let (mut command, mut target, mut phase) = (None, Target::Container, Phase::OnEnter);
    for (key, value) in cx.fields(&format!("exec of {what}"), item, keys::STAGE_EXEC) {
        let Some(text) = cx.word(&key.text, value) else { continue };
        match (key.text.as_str(), text.text.as_str()) {
            ("command", _) => command = check_command(cx, what, &text, node),
            ("target", "container") | ("phase", "on-enter") => {}
            ("target", "host") => target = Target::Host,
            ("phase", "on-exit") => phase = Phase::OnExit,
            ("target", other) => {
                cx.error(text.span, format!("target '{}' is neither container nor host", shorten(other)))
            }
            (_, other) => {
                cx.error(text.span, format!("phase '{}' is neither on-enter nor on-exit", shorten(other)))
            }
        }
    }
    if command.is_none() {
        cx.error(item.span, format!("exec of {what} needs a command"));
    }
    Some(StageExec { command: command?, target, phase })
}

fn wait_for(cx: &mut Context<'_>, what: &str, item: &Value) -> Option<WaitFor> {
    let (mut node, mut stage) = (None, None);
    for (key, value) in cx.fields(&format!("wait-for of {what}"), item, keys::WAIT_FOR) {
        let Some(text) = cx.word(&key.text, value) else { continue };
        match key.text.as_str() {
            "node" => node = Some(text.text),
            _ => stage = Some(stage_name(cx, &text)?),
        }
    }
    if node.is_none() || stage.is_none() {
        cx.error(item.span, format!("wait-for of {what} needs a node and a stage"));
    }
    Some(WaitFor { node: node?, stage: stage? })
}

/// The health check of a node.
pub(crate) fn healthcheck(cx: &mut Context<'_>, chain: &Chain<'_, '_>) -> Option<Healthcheck> {
    let (what, value) = chain.value("healthcheck")?;
    // Docker's defaults.
    let mut check = Healthcheck { test: Vec::new(), interval: 30, timeout: 30, retries: 3, start_period: 0 };
    for (key, value) in cx.fields(&what, value, keys::HEALTHCHECK) {
        if key.text == "test" {
            check.test = cx.texts(&format!("test of {what}"), value).into_iter().map(|t| t.text).collect();
            continue;
        }
        let Some(text) = cx.word(&key.text, value) else { continue };
        let Some(n) = cx.number(&key.text, &text, 0, 86_400) else { continue };
        match key.text.as_str() {
            "interval" => check.interval = n,
            "timeout" => check.timeout = n,
            "retries" => check.retries = n,
            _ => check.start_period = n,
        }
    }
    check.test = match check.test.as_slice() {
        [first, rest @ ..] if first == "CMD" && !rest.is_empty() => rest.to_vec(),
        [first, shell] if first == "CMD-SHELL" => ["/bin/sh", "-c", shell].map(str::to_owned).into(),
        [first] if first == "NONE" => return None,
        _ => {
            cx.error(value.span, format!("test of {what} must be a list that begins with CMD or CMD-SHELL"));
            return None;
        }
    };
    Some(check)
}

/// Says which stages wait for an unknown node, and whether some wait for each other in a circle.
pub(crate) fn check_waits(cx: &mut Context<'_>, nodes: &BTreeMap<String, Node>) {
    let mut findings = Vec::new();
    // Every stage waits for the node's own stage before it, and for what its wait-for says.
    let mut waiting: BTreeMap<(&str, StageName), usize> = BTreeMap::new();
    let mut dependants: BTreeMap<(&str, StageName), Vec<(&str, StageName)>> = BTreeMap::new();
    for node in nodes.values() {
        let mut before = None;
        for stage in StageName::ALL {
            let id = (node.name.as_str(), stage);
            let mut needs: Vec<_> = before.replace(id).into_iter().collect();
            for wait in node.stages.get(&stage).into_iter().flat_map(|s| &s.wait_for) {
                if nodes.contains_key(&wait.node) {
                    needs.push((wait.node.as_str(), wait.stage));
                } else {
                    let hint = did_you_mean(&wait.node, nodes.keys().map(String::as_str));
                    let message = format!(
                        "stage '{stage}' of node '{}' waits for node '{}', which does not exist{hint}",
                        node.name,
                        shorten(&wait.node)
                    );
                    findings.push(cx.source.error(node.place, message));
                }
            }
            waiting.insert(id, needs.len());
            for need in needs {
                dependants.entry(need).or_default().push(id);
            }
        }
    }
    let mut ready: Vec<_> = waiting.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
    while let Some(id) = ready.pop() {
        waiting.remove(&id);
        for dependant in dependants.get(&id).into_iter().flatten() {
            if let Some(left) = waiting.get_mut(dependant) {
                *left -= 1;
                if *left == 0 {
                    ready.push(*dependant);
                }
            }
        }
    }
    if let Some((name, stage)) = waiting.keys().next()
        && let Some(node) = nodes.get(*name)
    {
        let all: Vec<String> = waiting.keys().map(|(n, s)| format!("{n}/{s}")).take(6).collect();
        let message = format!("stage '{stage}' of node '{name}' waits for itself: {}", all.join(", "));
        findings.push(cx.source.error(node.place, message));
    }
    cx.findings.append(&mut findings);
}

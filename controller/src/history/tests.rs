use super::*;

#[test]
fn events_of_later_versions_are_read() {
    let event: Event =
        serde_json::from_str(r#"{"kind":"beamed-up","port":"default/web/a","colour":"red"}"#).unwrap();
    assert_eq!((event.kind, event.port), (EventKind::Unknown, Some("web/a".parse().unwrap())));
}

//! What concerns the edge as a whole: tenants, keys, the audit trail; and options.

use serde_json::{Value, json};

use super::{ACME, ACME_OPERATOR, ACME_VIEWER, GLOBEX_OPERATOR, OPERATOR, VIEWER, World};
use crate::names::TenantId;

fn option() -> String {
    format!("{ACME}/options/oauth.internal/device-token.lifespan.seconds")
}

#[tokio::test]
async fn the_token_lifespan_is_set_shown_and_reset() {
    let world = World::new().await;
    assert_eq!(world.get(VIEWER, &option()).await.refusal().0, 404);
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &option()).await.refusal().0, 404);
    for value in [json!("300"), json!(7200), json!("2592000")] {
        let answer = world.send(ACME_OPERATOR, "PUT", &option(), json!({ "value": value })).await;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let shown = json!({
            "category": "oauth.internal", "key": "device-token.lifespan.seconds", "value": text,
        });
        assert_eq!((answer.status, answer.json()), (200, shown.clone()));
        assert_eq!(world.get(VIEWER, &option()).await.json(), shown);
        let list = world.get(VIEWER, &format!("{ACME}/options")).await.json();
        assert_eq!(list, json!({ "options": [shown] }));
    }
    let state = world.registry().tenant(&TenantId::parse("acme").unwrap());
    let (category, key) = crate::tenant::LIFESPAN_OPTION;
    assert_eq!(state.options[&(category.to_owned(), key.to_owned())], "2592000");
    assert_eq!(world.bare(ACME_OPERATOR, "DELETE", &option()).await.status, 204);
    assert_eq!(world.get(VIEWER, &option()).await.refusal().0, 404);
}

#[tokio::test]
async fn lifespans_out_of_bounds_and_other_options_are_refused() {
    let world = World::new().await;
    for value in [json!("299"), json!(0), json!(-1), json!("2592001"), json!("1h"), json!("")] {
        let body = json!({ "value": value });
        let (status, message) = world.send(ACME_OPERATOR, "PUT", &option(), body).await.refusal();
        assert!(status == 422 && message.contains("at least 300"), "{value}: {message}");
    }
    for value in [json!(null), json!(3.5), json!([1]), json!(true)] {
        let body = json!({ "value": value });
        assert_eq!(world.send(ACME_OPERATOR, "PUT", &option(), body).await.refusal().0, 400);
    }
    let other = format!("{ACME}/options/oauth.internal/other");
    for answer in [
        world.get(VIEWER, &other).await,
        world.send(ACME_OPERATOR, "PUT", &other, json!({ "value": "300" })).await,
        world.bare(ACME_OPERATOR, "DELETE", &other).await,
    ] {
        let (status, message) = answer.refusal();
        assert!(status == 404 && message.contains("device-token.lifespan.seconds"), "{message}");
    }
}

#[tokio::test]
async fn tenants_are_listed_with_what_they_have() {
    let world = World::new().await;
    let pin = json!({ "sha256": "ab".repeat(32) });
    world.send(OPERATOR, "POST", &format!("{ACME}/devices/d1/pins"), pin).await;
    let tenant = |id: &str, devices: u64| {
        json!({
            "id": id, "state": "SERVICEABLE", "devices": devices,
            "trustedCertificates": 1, "revokedSerialNumbers": 0,
        })
    };
    let all = world.get(VIEWER, "/edge/tenants").await.json();
    assert_eq!(all["tenants"], json!([tenant("acme", 1), tenant("globex", 0)]));
    assert!(all.get("next").is_none());
    let first = world.get(VIEWER, "/edge/tenants?limit=1").await.json();
    assert_eq!(first["tenants"], json!([tenant("acme", 1)]));
    let second = world.get(VIEWER, first["next"].as_str().unwrap()).await.json();
    assert_eq!(second["tenants"], json!([tenant("globex", 0)]));
    assert!(second.get("next").is_none());
    let own = world.get(ACME_VIEWER, "/edge/tenants").await.json();
    assert_eq!(own["tenants"], json!([tenant("acme", 1)]));
    for odd in ["limit=0", "limit=1001", "after=A"] {
        assert_eq!(world.get(VIEWER, &format!("/edge/tenants?{odd}")).await.refusal().0, 400);
    }
}

#[tokio::test]
async fn signing_keys_are_shown_newest_first_without_a_secret() {
    let world = World::new().await;
    let keys = world.get(ACME_VIEWER, "/edge/signing-keys").await.json();
    let expected = json!({ "keys": [
        {
            "kid": "next", "algorithm": "ES256", "state": "PUBLISHED", "source": "registry",
            "publishedAt": "2027-01-15T08:00:00Z", "signFrom": "2027-01-15T08:10:00Z",
        },
        {
            "kid": "present", "algorithm": "ES256", "state": "SIGNING", "source": "registry",
            "publishedAt": "2027-01-15T07:43:20Z", "signFrom": "2027-01-15T07:53:20Z",
        },
        {
            "kid": "old", "algorithm": "ES256", "state": "RETIRED", "source": "registry",
            "publishedAt": "2027-01-15T07:26:40Z", "signFrom": "2027-01-15T07:36:40Z",
            "retiresAt": "2027-01-15T08:01:00Z",
        },
    ]});
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn keys_are_rotated_and_deleted_by_operators_of_all_tenants() {
    let world = World::new().await;
    let rotate = "/edge/signing-keys/rotate";
    assert_eq!(world.bare(OPERATOR, "POST", rotate).await.status, 200);
    let es256 = json!({ "algorithm": "ES256" });
    assert_eq!(world.send(OPERATOR, "POST", rotate, es256).await.status, 200);
    assert_eq!(world.keys.rotated.lock().unwrap().len(), 2);
    assert_eq!(world.keys.rotated.lock().unwrap()[0].0, "operator");
    let rs256 = json!({ "algorithm": "RS256" });
    assert_eq!(world.send(OPERATOR, "POST", rotate, rs256).await.refusal().0, 422);
    let none = json!({ "algorithm": "none" });
    assert_eq!(world.send(OPERATOR, "POST", rotate, none).await.refusal().0, 400);
    let kid = |kid: &str| format!("/edge/signing-keys/{kid}");
    assert_eq!(world.bare(OPERATOR, "DELETE", &kid("present")).await.refusal().0, 409);
    assert_eq!(world.bare(OPERATOR, "DELETE", &kid("present?force=true")).await.status, 204);
    assert_eq!(
        world.bare(OPERATOR, "DELETE", &kid("present?force=perhaps")).await.refusal().0,
        400
    );
    assert_eq!(world.bare(OPERATOR, "DELETE", &kid("other")).await.refusal().0, 404);
    assert_eq!(world.bare(OPERATOR, "DELETE", &kid("a%0Ab")).await.refusal().0, 404);
    assert_eq!(world.bare(OPERATOR, "DELETE", &kid("old")).await.status, 204);
    assert_eq!(world.keys.deleted.lock().unwrap()["old"], "operator");
}

#[tokio::test]
async fn the_audit_trail_is_read_in_pages_and_by_tenant() {
    let world = World::new().await;
    for (token, tenant) in
        [(ACME_OPERATOR, "acme"), (GLOBEX_OPERATOR, "globex"), (OPERATOR, "acme")]
    {
        let path = format!(
            "/tenant/tenants/{tenant}/options/oauth.internal/device-token.lifespan.seconds"
        );
        assert_eq!(world.send(token, "PUT", &path, json!({ "value": 600 })).await.status, 200);
    }
    let tenants = |page: &Value| -> Vec<String> {
        let records = page["records"].as_array().unwrap().iter();
        records.map(|record| record["tenant"].as_str().unwrap().to_owned()).collect()
    };
    let all = world.get(OPERATOR, "/edge/audit").await.json();
    assert_eq!(tenants(&all), ["acme", "globex", "acme"]);
    let mut next = Some("/edge/audit?limit=1".to_owned());
    let mut ids = Vec::new();
    while let Some(link) = next {
        let page = world.get(VIEWER, &link).await.json();
        let records = page["records"].as_array().unwrap();
        ids.extend(records.iter().map(|record| record["id"].as_i64().unwrap()));
        next = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(ids.len(), 3);
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]));
    let own = world.get(ACME_VIEWER, "/edge/audit").await.json();
    assert_eq!(tenants(&own), ["acme", "acme"]);
    let named = world.get(OPERATOR, "/edge/audit?tenant=globex").await.json();
    assert_eq!(tenants(&named), ["globex"]);
    let foreign = world.get(ACME_VIEWER, "/edge/audit?tenant=globex").await;
    assert_eq!(foreign.refusal().0, 404);
    for odd in ["limit=0", "limit=1001", "before=x", "before=-1", "before=0"] {
        assert_eq!(world.get(VIEWER, &format!("/edge/audit?{odd}")).await.refusal().0, 400);
    }
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_503_with_retry_after() {
    let world = World::new().await;
    world.registry().close().await;
    let value = json!({ "value": 600 });
    for answer in [
        world.get(VIEWER, &format!("{ACME}/devices")).await,
        world.send(OPERATOR, "PUT", &option(), value).await,
        world.get(VIEWER, "/edge/audit").await,
    ] {
        assert_eq!(answer.refusal().0, 503);
        assert_eq!(answer.headers["retry-after"], "5");
    }
    // From memory: no number of tenants is a burden to the store.
    let tenants = world.get(VIEWER, "/edge/tenants").await.json();
    assert_eq!(tenants["tenants"][0]["devices"], 0);
}

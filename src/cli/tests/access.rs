//! How the edge is reached, and as whom.

use super::*;

#[test]
fn the_token_is_sent_and_never_shown() {
    let files = Files::new();
    let file = files.write("token", format!("{TOKEN}\n"), 0o600);
    let edge =
        Edge::start(|_| refusal(401, "security/unauthorized", "The credential is not known here."));
    let run = run(&edge, &["trust", "list", "--token-file", &file]);
    assert_eq!(edge.asked()[0].header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    assert_eq!(run.code, 1);
    assert!(run.notes.contains(&file) && run.notes.contains("not known here"), "{}", run.notes);
    assert_eq!(run.notes.lines().count(), 1, "{}", run.notes);
    assert!(!format!("{run:?}").contains(TOKEN));
}

#[test]
fn a_request_without_a_token_says_how_to_give_one() {
    let edge = Edge::start(|_| refusal(401, "security/unauthorized", "Send a token."));
    let run = run(&edge, &["key", "list"]);
    assert!(run.notes.contains("--token-file FILE") && run.notes.contains("PORTCULLIS_TOKEN_FILE"));
    assert_eq!(edge.asked()[0].header("authorization"), None);
}

#[test]
fn an_open_token_file_is_refused_before_anything_is_sent() {
    let files = Files::new();
    let file = files.write("token", TOKEN, 0o644);
    let edge = Edge::start(|_| answer(200, json!({})));
    let url = edge.url();
    let run = run_with(
        &[("PORTCULLIS_ADMIN", &url), ("PORTCULLIS_TOKEN_FILE", &file)],
        &["tenant", "list"],
    );
    assert_eq!(run.code, 1);
    assert!(run.notes.contains(&format!("chmod 600 {file}")), "{}", run.notes);
    assert!(edge.lines().is_empty());
}

#[test]
fn an_edge_that_is_not_there_is_named_with_the_option_for_another() {
    let url = Edge::start(|_| answer(200, "{}")).url();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{free}");
    let run = run_with(&[("PORTCULLIS_ADMIN", &url)], &["tenant", "list", "--admin", &gone]);
    assert_eq!(run.code, 1);
    assert!(run.notes.contains(&gone) && run.notes.contains("`--admin URL`"), "{}", run.notes);
}

#[test]
fn a_service_that_is_no_admin_api_is_told_apart() {
    for body in ["<html>hello</html>", "[1"] {
        let edge = Edge::start(move |_| answer(200, body));
        let run = run(&edge, &["key", "list"]);
        assert!(run.code == 1 && run.notes.contains("not as an admin API"), "{run:?}");
    }
    let edge = Edge::start(|_| answer(502, "<html>"));
    assert!(run(&edge, &["key", "list"]).notes.contains("answers with status 502"));
}

#[test]
fn redirects_are_not_followed() {
    let other = Edge::start(|_| answer(200, json!({ "keys": [] })));
    let location = format!("Location: {}/edge/signing-keys\r\n", other.url());
    let edge = Edge::start(move |_| Answer { headers: location.clone(), ..answer(302, "") });
    let run = run(&edge, &["key", "list"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(other.lines().is_empty());
}

#[test]
fn a_missing_tenant_is_wrong_usage_and_tells_the_tenants() {
    let edge = Edge::start(|_| {
        answer(
            200,
            json!({ "tenants": [{ "id": "acme" }, { "id": "globex" }], "self": "/x", "next": "/y" }),
        )
    });
    let url = edge.url();
    let run = run_with(&[("PORTCULLIS_ADMIN", &url)], &["device", "list"]);
    assert_eq!(run.code, 2);
    assert!(
        run.notes.contains("--tenant") && run.notes.contains("acme, globex, …"),
        "{}",
        run.notes
    );
}

#[test]
fn options_come_before_or_after_the_command() {
    let edge = Edge::start(|_| answer(200, json!({ "devices": [], "self": "/x" })));
    let url = edge.url();
    for arguments in [
        ["device", "--admin", &url, "--tenant", "acme", "list"],
        ["device", "list", "--admin", &url, "--tenant", "acme"],
    ] {
        assert_eq!(run_with(&[], &arguments).code, 0);
    }
    assert_eq!(
        edge.lines(),
        [format!("GET {DEVICES}?limit=100"), format!("GET {DEVICES}?limit=100")]
    );
}

#[test]
fn only_this_machine_is_reached_past_every_proxy() {
    for url in [
        "http://127.0.0.1:1",
        "http://[::1]",
        "https://localhost:9",
        "http://LOCALHOST",
        "http://127.9.9.9",
    ] {
        assert!(client::Base::parse(url).unwrap().is_loopback(), "{url}");
    }
    for url in ["http://10.0.0.1", "https://localhost.example.com", "http://[2001:db8::1]"] {
        assert!(!client::Base::parse(url).unwrap().is_loopback(), "{url}");
    }
}

/// A CA, an edge with a certificate of it, and a client's certificate and key.
fn tls_edge(files: &Files, wants_client: bool) -> Edge {
    let (ca_key, edge_key, client_key) = (ec_key(), ec_key(), ec_key());
    let ca = certificate("CA", &ca_key, None);
    let own = certificate("edge", &edge_key, Some((&ca, &ca_key)));
    let client = certificate("night-shift", &client_key, Some((&ca, &ca_key)));
    files.write("ca.pem", ca.to_pem().unwrap(), 0o644);
    files.write("client.pem", client.to_pem().unwrap(), 0o644);
    // In the form of `openssl ecparam -genkey`, which is not PKCS #8.
    let sec1 = client_key.ec_key().unwrap().private_key_to_pem().unwrap();
    files.write("client.key", sec1, 0o600);
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&edge_key).unwrap();
    acceptor.set_certificate(&own).unwrap();
    if wants_client {
        acceptor.cert_store_mut().add_cert(ca).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    Edge::start_tls(acceptor.build(), |_: &Asked| answer(200, json!({ "keys": [] })))
}

fn ask_by_tls(edge: &Edge, files: &Files, given: &[&str]) -> Run {
    let url = format!("https://{}", edge.address);
    let mut arguments = vec!["key".to_owned(), "list".to_owned(), "--admin".to_owned(), url];
    for name in given {
        let file = match *name {
            "--ca" => "ca.pem",
            "--certificate" => "client.pem",
            _ => "client.key",
        };
        arguments.push((*name).to_owned());
        arguments.push(Path::new(&files.path(file)).to_str().unwrap().to_owned());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run_with(&[], &arguments)
}

#[test]
fn an_edge_is_believed_by_its_ca_only() {
    let files = Files::new();
    let edge = tls_edge(&files, false);
    let known = ask_by_tls(&edge, &files, &["--ca"]);
    assert_eq!(known.code, 0, "{known:?}");
    let unknown = ask_by_tls(&edge, &files, &[]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.notes.contains("--ca FILE") && unknown.notes.lines().count() == 1,
        "{unknown:?}"
    );
    assert_eq!(edge.lines().len(), 1);
}

#[test]
fn a_client_certificate_is_shown_where_the_edge_wants_one() {
    let files = Files::new();
    let edge = tls_edge(&files, true);
    let shown = ask_by_tls(&edge, &files, &["--ca", "--certificate", "--key"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let without = ask_by_tls(&edge, &files, &["--ca"]);
    assert!(without.code == 1 && without.notes.contains("--certificate"), "{without:?}");
    assert_eq!(ask_by_tls(&edge, &files, &["--ca", "--key"]).code, USAGE);
    assert_eq!(edge.lines().len(), 1);
}

/// Whether an edge is well, and what was printed.
fn health(environment: Option<&str>, given: &[&str]) -> Result<(bool, String), (u8, String)> {
    let start = ["portcullis", "health"];
    let arguments = Arguments::try_parse_from(start.iter().chain(given)).unwrap();
    let Command::Health(health) = arguments.command else { panic!() };
    let mut out = Vec::new();
    let set = |name: &str| environment.filter(|_| name == "PORTCULLIS_ADMIN").map(OsString::from);
    let well = health.run(set, &mut out);
    let well = well.map_err(|error| (code_of(&error), format!("{error:#}")))?;
    Ok((well, String::from_utf8(out).unwrap()))
}

#[test]
fn health_is_asked_over_tls_of_an_edge_with_the_right_name_and_ca() {
    let files = Files::new();
    let edge = tls_edge(&files, false);
    let foreign =
        files.write("foreign.pem", certificate("CA", &ec_key(), None).to_pem().unwrap(), 0o644);
    let own = files.path("ca.pem");
    let own = own.to_str().unwrap();
    let (address, url) = (edge.address.to_string(), format!("https://{}", edge.address));
    let well = Ok((true, "{\"keys\":[]}\n".to_owned()));
    for admin in [&address, &url] {
        let ask = |given: &[&str]| health(None, &[&["--admin", admin], given].concat());
        assert_eq!(ask(&["--ca", own]), well);
        assert_eq!(ask(&["--ca", own, "--server-name", "127.0.0.1", "--ready"]), well);
        for (given, hint) in [
            (&["--ca", &foreign][..], "--ca FILE"),
            (&["--ca", own, "--server-name", "other.example.com"], "--server-name NAME"),
            (&[], "--ca FILE"),
        ] {
            let (code, error) = ask(given).unwrap_err();
            assert!(code == 1 && error.contains(hint) && error.lines().count() == 1, "{error}");
        }
    }
    assert_eq!(edge.lines(), ["GET /healthz", "GET /readyz"].repeat(2));
}

#[test]
fn health_is_asked_in_cleartext_without_a_ca() {
    for (status, well) in [(200, true), (503, false)] {
        let edge = Edge::start(move |_| answer(status, "as it is\u{1b}[1m"));
        let expected = Ok((well, "as it is\\u{1b}[1m\n".to_owned()));
        let port = edge.address.port();
        for admin in [edge.address.to_string(), edge.url(), format!("http://localhost:{port}/")] {
            assert_eq!(health(None, &["--admin", &admin]), expected, "{admin}");
            assert_eq!(health(Some(&admin), &[]), expected, "{admin}");
            // What is given counts before what is set.
            assert_eq!(health(Some("http://192.0.2.1"), &["--admin", &admin]), expected);
        }
        assert_eq!(edge.asked()[0].header("host"), Some(&*edge.address.to_string()));
    }
}

#[test]
fn health_says_what_is_wrong_with_its_address() {
    for (environment, given, hint) in [
        (None, &["--admin", "localhost:9090"][..], "--admin: "),
        (None, &["--admin", "127.0.0.1"], "--admin: "),
        (Some("ftp://127.0.0.1"), &[], "PORTCULLIS_ADMIN: neither http nor https"),
        (Some("http://127.0.0.1:1/x"), &[], "a path has no place"),
        (None, &["--admin", "http://127.0.0.1:1", "--ca", "ca.pem"], "need https"),
        (None, &["--server-name", "edge.example.com"], "need https"),
    ] {
        let (code, error) = health(environment, given).unwrap_err();
        assert!(code == USAGE && error.contains(hint), "{given:?}: {error}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, error) = health(Some(&format!("http://{free}")), &[]).unwrap_err();
    assert!(code == 1 && error.contains(&free.to_string()) && error.contains("`--admin URL`"));
}

#[test]
fn a_token_on_a_plain_connection_to_another_machine_is_warned_of() {
    let files = Files::new();
    let token = files.write("token", TOKEN, 0o600);
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    for (url, warned) in
        [("http://192.0.2.1:9", true), ("https://192.0.2.1:9", false), ("http://[::1]:9", false)]
    {
        let arguments = Arguments::try_parse_from([
            "portcullis",
            "tenant",
            "list",
            "--admin",
            url,
            "--token-file",
            &token,
        ]);
        let Command::Ask(Ask::Tenant { access, .. }) = arguments.unwrap().command else { panic!() };
        drop(access.open(|_| None, &mut out, &mut notes).unwrap());
        assert_eq!(!notes.is_empty(), warned, "{url}");
        notes.clear();
    }
}

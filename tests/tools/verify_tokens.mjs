// Verifies tokens with jose, which fetches the key set itself, from the edge.
//
// Argument: where the packages are. Standard input: {"address", "server_name", "ca" (PEM),
// "algorithm", "issuer", "audience", "tokens": [...]}. Standard output: {"jose": [...]}: for
// each token its subject, or null where it is refused.

import { readFileSync } from "node:fs";
import { request } from "node:https";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const packages = createRequire(pathToFileURL(`${process.argv[2]}/`));
const { createRemoteJWKSet, customFetch, jwtVerify } = await import(
  pathToFileURL(packages.resolve("jose"))
);
const asked = JSON.parse(readFileSync(0, "utf8"));

// The name is the edge's, the address is the test's.
const fetchFromEdge = (url) =>
  new Promise((resolve, reject) => {
    const [host, port] = asked.address.split(":");
    const { pathname } = new URL(url);
    const tls = { servername: asked.server_name, ca: asked.ca };
    const headers = { host: asked.server_name };
    request({ host, port, path: pathname, headers, ...tls }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () =>
        resolve(new Response(Buffer.concat(chunks), { status: response.statusCode })),
      );
    })
      .on("error", reject)
      .end();
  });

const keys = createRemoteJWKSet(
  new URL(`https://${asked.server_name}/.well-known/jwks.json`),
  { [customFetch]: fetchFromEdge },
);
const verified = [];
for (const token of asked.tokens) {
  try {
    const { payload } = await jwtVerify(token, keys, {
      algorithms: [asked.algorithm],
      issuer: asked.issuer,
      audience: asked.audience,
      requiredClaims: ["exp", "nbf", "iat", "sub", "jti"],
    });
    verified.push(payload.sub);
  } catch (refused) {
    console.error("jose refuses:", refused.code ?? refused);
    verified.push(null);
  }
}
console.log(JSON.stringify({ jose: verified }));

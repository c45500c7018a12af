// Package proxy is the two faces this product shows over HTTP: the data path,
// a streaming reverse proxy that puts an access token on DICOMweb requests, and
// the admin routes that tell an operator how it is doing.
//
// The data path forwards /{server}/rest to the server's base URL plus rest. It
// streams both ways in constant memory, replays a request when the remote
// refuses the token, and holds three lines: no caller leaves the server's base
// path with our token, the token goes to that server's origin and nowhere else,
// and the caller's own credentials stop here.
//
// Both faces are plain http.Handlers. They know where tokens come from only by
// the interface TokenSource, and nothing of backends or clusters: internal/node
// fills the fields.
package proxy

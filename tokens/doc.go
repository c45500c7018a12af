// Package tokens keeps a valid bearer token at hand for each server.
//
// A Source is a handle on one server's token. A fresh token costs one atomic
// load and one reading of the monotonic clock. In the refresh window the caller
// gets the held token at once, and one Fill runs behind it. Without a usable
// token the caller joins the flight of the backend, which lets the whole fleet
// acquire once. A token that the server refuses is revoked by the name of its
// acquisition, so that a late complaint cannot touch a later token.
//
// What goes into a backend is sealed under the credential; neither the backend
// nor who shares it can read or use a token.
package tokens

// Package idptest is the outside world that tests, the demo and the chaos runs
// need: a scripted OAuth2 identity provider that counts, delays, fails,
// throttles, rotates and revokes (IdP), a bearer gate that lets only live
// tokens through to a DICOMweb server (Gate), and a small DICOMweb-shaped server
// for machines without Orthanc (Target).
//
// All three are plain http.Handlers. Listen puts one on a loopback port, InMemory
// calls one without a socket (inside a synctest bubble, say), and Command runs
// them as a process with a control route. The provider's own count is the truth
// that the rest of the project is judged by, so it counts on arrival, before any
// scripted fault.
package idptest

// Package chaos holds the tests of the whole. They start the product as its
// users do (Orthanc with the plugin, orthanc-oauth serve) beside a scripted
// identity provider and a guarded DICOMweb server, break things, and judge by
// what the provider and the guard have counted, never by a node's word alone.
//
// ORTHANC_OAUTH_PLUGIN and ORTHANC_OAUTH_BINARY name what is tested; what they
// do not name is built first. Tests that need Orthanc or redis-server are
// skipped where those are not installed, and fail instead if
// ORTHANC_OAUTH_REQUIRE_REAL is set.
//
// The runs that break many things at once have folders of their own: sim in
// virtual time, processes in network namespaces, containers as operators deploy
// them, hostile for who means harm. history is the judge of the middle two.
package chaos

// Command plugin is the native Orthanc plugin "dicomweb-oauth": it translates
// between Orthanc's C interface and the assembly that the sidecar runs as well.
//
// Orthanc calls, in this order: Initialize (reads the configuration, listens,
// registers routes), change 10 "OrthancStarted" (joins, and registers the
// DICOMweb servers), change 11 "OrthancStopped" (takes them away again), and
// Finalize. A reset of Orthanc goes through all four and begins anew in the same
// process and the same Go runtime, so nothing here survives in a global but the
// one pointer that the C interface cannot carry.
//
// Everything is plain Go against the small interface host, and builds and tests
// without cgo and without Orthanc; only abi.go and abi.c know the C interface.
// A panic in any goroutine would end a hospital's Orthanc, so whatever is started
// or exported here recovers.
//
// Build it with
//
//	go build -tags orthanc -buildmode=c-shared -o libOrthancDicomWebOAuth.so ./plugin
package main

// main is never called: the library is loaded, not run. Without the orthanc tag
// (or without cgo) this is all that is left of the program.
func main() {}

// Package fleet starts real processes on loopback (Orthancs with plugins, Redis
// servers, sidecar nodes) in one temporary folder and ends them all, by process
// id, whatever happens: Close, the end of a context, or the death of this
// process. The demo, the tests against real servers and the chaos runs stand on
// it.
package fleet

// Package hostile attacks a real fleet and measures what that costs it: rows 52
// to 55 of the fault matrix. A stranger at another loopback address than the
// nodes' floods the gossip port of one of three orthanc-oauth serve processes,
// while clients go on and memory and cold gets are measured; an insider has the
// key and sends what it likes; an eavesdropper sends again what it recorded.
//
// Every load is bounded in count and in time.
package hostile

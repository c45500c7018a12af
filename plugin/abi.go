//go:build orthanc && cgo

package main

// #include "abi.h"
import "C"

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"orthanc-oauth/internal/node"
)

// loaded is the plugin that Orthanc has initialised. The C interface calls plain
// functions without an argument of ours, so this one pointer has to be global.
var loaded atomic.Pointer[instance]

// instance is one life of the plugin with the Orthanc it lives in. The plugin is
// nil where OAuth is not configured.
type instance struct {
	orthanc *orthanc
	plugin  *plugin
}

// The oldest Orthanc this has been tried with.
const oldestMajor, oldestMinor, oldestRevision = 1, 10, 1

//export OrthancPluginInitialize
func OrthancPluginInitialize(context *C.OrthancPluginContext) (code C.int32_t) {
	o := &orthanc{context: context}
	defer func() {
		if r := recover(); r != nil {
			o.Log(slog.LevelError, fmt.Sprintf("%sinternal error: %v\n%s", logName, r, debug.Stack()))
			code = -1
		}
	}()
	if C.OrthancPluginCheckVersionAdvanced(context, oldestMajor, oldestMinor, oldestRevision) == 0 {
		o.Log(slog.LevelError, fmt.Sprintf("%sOrthanc %s is too old, %d.%d.%d is needed",
			logName, C.GoString(context.orthancVersion), oldestMajor, oldestMinor, oldestRevision))
		return -1
	}
	p, err := newPlugin(o, assembleWith(newNode))
	if err != nil {
		o.Log(slog.LevelError, logName+oneLine(err))
		return -1
	}
	loaded.Store(&instance{orthanc: o, plugin: p})
	if p != nil {
		C.oauthRegister(context)
	}
	return 0
}

//export OrthancPluginFinalize
func OrthancPluginFinalize() {
	in := loaded.Swap(nil)
	if in == nil {
		return
	}
	defer in.orthanc.detach()
	defer in.guard("finalize")
	if in.plugin != nil {
		in.plugin.Close()
	}
}

//export oauthStarted
func oauthStarted() { onChange("start", (*plugin).Started) }

//export oauthStopped
func oauthStopped() { onChange("stop", (*plugin).Stopped) }

//export oauthMetrics
func oauthMetrics() { onChange("metrics", (*plugin).RefreshGauges) }

// onChange calls one method of the loaded plugin and lets no panic out.
func onChange(what string, call func(*plugin)) {
	in := loaded.Load()
	if in == nil || in.plugin == nil {
		return
	}
	defer in.guard(what)
	call(in.plugin)
}

// guard is deferred in every export: a panic that reached Orthanc would end it.
func (in *instance) guard(what string) {
	if r := recover(); r != nil {
		in.orthanc.Log(slog.LevelError, fmt.Sprintf("%sinternal error in %s: %v\n%s", logName, what, r, debug.Stack()))
	}
}

//export oauthVersion
func oauthVersion(target *C.char, size C.size_t) {
	out := unsafe.Slice((*byte)(unsafe.Pointer(target)), int(size))
	n := copy(out[:len(out)-1], node.Version)
	out[n] = 0
}

//export oauthRest
func oauthRest(output *C.OrthancPluginRestOutput, path *C.char, r *C.OrthancPluginHttpRequest) (code C.int32_t) {
	in := loaded.Load()
	if in == nil || in.plugin == nil {
		return C.OrthancPluginErrorCode_UnknownResource
	}
	code = C.OrthancPluginErrorCode_Plugin
	defer in.guard("route")
	in.orthanc.send(output, in.plugin.Answer(readCall(path, r)))
	return C.OrthancPluginErrorCode_Success
}

// readCall copies a request out of Orthanc's memory.
func readCall(path *C.char, r *C.OrthancPluginHttpRequest) restCall {
	c := restCall{method: method(r.method), path: C.GoString(path)}
	c.query = pairs(r.getKeys, r.getValues, r.getCount)
	c.header = pairs(r.headersKeys, r.headersValues, r.headersCount)
	if r.body != nil {
		// One byte over the bound is enough for the bridge to refuse it.
		c.body = C.GoBytes(r.body, C.int(min(uint32(r.bodySize), maxBody+1)))
	}
	return c
}

func method(m C.OrthancPluginHttpMethod) string {
	switch m {
	case C.OrthancPluginHttpMethod_Post:
		return http.MethodPost
	case C.OrthancPluginHttpMethod_Put:
		return http.MethodPut
	case C.OrthancPluginHttpMethod_Delete:
		return http.MethodDelete
	default:
		return http.MethodGet
	}
}

func pairs(keys, values **C.char, n C.uint32_t) []pair {
	if n == 0 || keys == nil || values == nil {
		return nil
	}
	ks, vs := unsafe.Slice(keys, int(n)), unsafe.Slice(values, int(n))
	out := make([]pair, n)
	for i := range out {
		out[i] = pair{key: C.GoString(ks[i]), value: C.GoString(vs[i])}
	}
	return out
}

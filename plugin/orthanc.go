//go:build orthanc && cgo

package main

// #include "abi.h"
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// detachTimeout bounds how long Finalize waits for calls into Orthanc that are
// under way. By then the plugin has waited for all of its goroutines, so there is
// one only if Orthanc itself hangs.
const detachTimeout = 300 * time.Millisecond

// orthanc is the host. Its context is dead after Finalize, so every call goes
// through use.
type orthanc struct {
	mu       sync.RWMutex // held for reading during a call
	detached atomic.Bool
	context  *C.OrthancPluginContext
}

// use runs f with the context, unless Orthanc is gone.
func (o *orthanc) use(f func(*C.OrthancPluginContext) error) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.context == nil || o.detached.Load() {
		return errDetached
	}
	return f(o.context)
}

// detach forgets the context. It tries instead of locking: a waiting writer would
// block new readers, and with them whoever holds up the call it waits for.
func (o *orthanc) detach() {
	o.detached.Store(true)
	for end := time.Now().Add(detachTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if o.mu.TryLock() {
			o.context = nil
			o.mu.Unlock()
			return
		}
	}
}

// Log implements logSink.
func (o *orthanc) Log(level slog.Level, line string) {
	text := C.CString(line)
	defer C.free(unsafe.Pointer(text))
	_ = o.use(func(context *C.OrthancPluginContext) error { // nowhere to log to: nothing to do
		switch {
		case level >= slog.LevelError:
			C.OrthancPluginLogError(context, text)
		case level >= slog.LevelWarn:
			C.OrthancPluginLogWarning(context, text)
		default:
			C.OrthancPluginLogInfo(context, text)
		}
		return nil
	})
}

// Configuration implements host. It holds passwords: it is parsed, never logged.
func (o *orthanc) Configuration() (conf []byte, err error) {
	err = o.use(func(context *C.OrthancPluginContext) error {
		text := C.OrthancPluginGetConfiguration(context)
		if text == nil {
			return errors.New("orthanc returned none")
		}
		defer C.OrthancPluginFreeString(context, text)
		conf = []byte(C.GoString(text))
		return nil
	})
	return conf, err
}

// Get implements rest.
func (o *orthanc) Get(uri string) (body []byte, err error) {
	curi := C.CString(uri)
	defer C.free(unsafe.Pointer(curi))
	err = o.use(func(context *C.OrthancPluginContext) error {
		var target C.OrthancPluginMemoryBuffer
		if err := failure(context, C.OrthancPluginRestApiGetAfterPlugins(context, &target, curi)); err != nil {
			return err
		}
		defer C.OrthancPluginFreeMemoryBuffer(context, &target)
		body = C.GoBytes(target.data, C.int(target.size))
		return nil
	})
	return body, err
}

// Put implements rest.
func (o *orthanc) Put(uri string, body []byte) error {
	curi, cbody := C.CString(uri), C.CBytes(body)
	defer C.free(unsafe.Pointer(curi))
	defer C.free(cbody)
	return o.use(func(context *C.OrthancPluginContext) error {
		var target C.OrthancPluginMemoryBuffer
		code := C.OrthancPluginRestApiPutAfterPlugins(context, &target, curi, cbody, C.uint32_t(len(body)))
		if err := failure(context, code); err != nil {
			return err
		}
		C.OrthancPluginFreeMemoryBuffer(context, &target)
		return nil
	})
}

// Delete implements rest.
func (o *orthanc) Delete(uri string) error {
	curi := C.CString(uri)
	defer C.free(unsafe.Pointer(curi))
	return o.use(func(context *C.OrthancPluginContext) error {
		return failure(context, C.OrthancPluginRestApiDeleteAfterPlugins(context, curi))
	})
}

func failure(context *C.OrthancPluginContext, code C.OrthancPluginErrorCode) error {
	if code == C.OrthancPluginErrorCode_Success {
		return nil
	}
	return fmt.Errorf("orthanc error %d: %s", int(code), C.GoString(C.OrthancPluginGetErrorDescription(context, code)))
}

// SetGauge implements host.
func (o *orthanc) SetGauge(name string, value float64) {
	if math.IsNaN(value) {
		return
	}
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	_ = o.use(func(context *C.OrthancPluginContext) error {
		C.OrthancPluginSetMetricsValue(context, cname, C.float(value), C.OrthancPluginMetricsType_Default)
		return nil
	})
}

// Getenv implements environment.
func (o *orthanc) Getenv(name string) string {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	return C.GoString(C.getenv(cname))
}

// Setenv implements environment. It is called during Initialize only, when no
// other thread of Orthanc reads the environment yet.
func (o *orthanc) Setenv(name, value string) error {
	cname, cvalue := C.CString(name), C.CString(value)
	defer C.free(unsafe.Pointer(cname))
	defer C.free(unsafe.Pointer(cvalue))
	if rc, err := C.setenv(cname, cvalue, 1); rc != 0 {
		return err
	}
	return nil
}

// send answers one REST call.
func (o *orthanc) send(output *C.OrthancPluginRestOutput, a restAnswer) {
	body := C.CBytes(a.body)
	defer C.free(body)
	_ = o.use(func(context *C.OrthancPluginContext) error {
		for name, values := range a.header {
			// AnswerBuffer sets the type itself, and a second one would be sent too.
			if name != "Content-Type" || a.status != http.StatusOK {
				setHeader(context, output, name, strings.Join(values, ", "))
			}
		}
		sendBody(context, output, a, body)
		return nil
	})
}

func sendBody(context *C.OrthancPluginContext, output *C.OrthancPluginRestOutput, a restAnswer, body unsafe.Pointer) {
	size := C.uint32_t(len(a.body))
	switch a.status {
	case http.StatusOK:
		mime := C.CString(a.header.Get("Content-Type"))
		defer C.free(unsafe.Pointer(mime))
		C.OrthancPluginAnswerBuffer(context, output, body, size, mime)
	case http.StatusMethodNotAllowed: // has a call of its own, without a body
		allow := C.CString(a.header.Get("Allow"))
		defer C.free(unsafe.Pointer(allow))
		C.OrthancPluginSendMethodNotAllowed(context, output, allow)
	default:
		if C.oauthSendStatus(context, output, C.uint16_t(a.status), (*C.char)(body), size) != C.OrthancPluginErrorCode_Success {
			C.oauthSendStatus(context, output, C.uint16_t(sendable(a.status)), (*C.char)(body), size)
		}
	}
}

func setHeader(context *C.OrthancPluginContext, output *C.OrthancPluginRestOutput, name, value string) {
	cname, cvalue := C.CString(name), C.CString(value)
	defer C.free(unsafe.Pointer(cname))
	defer C.free(unsafe.Pointer(cvalue))
	C.OrthancPluginSetHttpHeader(context, output, cname, cvalue)
}

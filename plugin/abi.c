//go:build orthanc && cgo

#include "abi.h"
#include "_cgo_export.h"

/* The two exports that return const char*, which cgo cannot declare. */

ORTHANC_PLUGINS_API const char *OrthancPluginGetName(void) { return "dicomweb-oauth"; }

ORTHANC_PLUGINS_API const char *OrthancPluginGetVersion(void) {
  static char version[64];
  if (version[0] == '\0') oauthVersion(version, sizeof version);
  return version;
}

static OrthancPluginErrorCode onRest(OrthancPluginRestOutput *output, const char *url,
                                     const OrthancPluginHttpRequest *request) {
  return (OrthancPluginErrorCode)oauthRest(output, (char *)url, (OrthancPluginHttpRequest *)request);
}

/* Runs under a global lock for every stored instance: anything but our two
   changes must not cost a call into Go. */
static OrthancPluginErrorCode onChange(OrthancPluginChangeType change, OrthancPluginResourceType type,
                                       const char *id) {
  (void)type;
  (void)id;
  if (change == OrthancPluginChangeType_OrthancStarted) oauthStarted();
  if (change == OrthancPluginChangeType_OrthancStopped) oauthStopped();
  return OrthancPluginErrorCode_Success;
}

static void onMetrics(void) { oauthMetrics(); }

void oauthRegister(OrthancPluginContext *context) {
  OrthancPluginRegisterRestCallbackNoLock(context, "/dicomweb-oauth/.*", onRest);
  OrthancPluginRegisterRestCallbackNoLock(context, "/plugins/oauth/.*", onRest);
  OrthancPluginRegisterOnChangeCallback(context, onChange);
  OrthancPluginRegisterRefreshMetricsCallback(context, onMetrics);
  OrthancPluginSetDescription(context, "OAuth2 tokens for remote DICOMweb servers, shared by a fleet.");
}

OrthancPluginErrorCode oauthSendStatus(OrthancPluginContext *context, OrthancPluginRestOutput *output,
                                       uint16_t status, const char *body, uint32_t size) {
  _OrthancPluginSendHttpStatus params = {output, status, body, size};
  return context->InvokeService(context, _OrthancPluginService_SendHttpStatus, &params);
}

/* What abi.c and abi.go share. The Orthanc SDK header is included from where it
   is installed and not copied in. */
#ifndef ORTHANC_OAUTH_ABI_H
#define ORTHANC_OAUTH_ABI_H

#include <stdint.h>
#include <stdlib.h>
#include <orthanc/OrthancCPlugin.h>

/* Registers our routes, the change callback and the metrics callback. */
void oauthRegister(OrthancPluginContext *context);

/* OrthancPluginSendHttpStatus, but says whether Orthanc knows the status. */
OrthancPluginErrorCode oauthSendStatus(OrthancPluginContext *context, OrthancPluginRestOutput *output,
                                       uint16_t status, const char *body, uint32_t size);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef MQFS_LIB_JSON_H
#define MQFS_LIB_JSON_H

#include <cjson/cJSON.h>

#include <mqfs/message.h>

/* Headers as JSON, always valid UTF-8. Each returns a new item, or NULL when out of memory. */
cJSON *json_from_value(const struct mqfs_value *value);
cJSON *json_from_text(const void *text, size_t bytes);
cJSON *json_from_integer(int64_t number);

/* Adds item, which may be NULL, under a name that is repaired first; takes it over. 0 or -ENOMEM. */
int json_put(cJSON *object, const char *name, cJSON *item);

#endif

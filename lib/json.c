/* SPDX-License-Identifier: MIT */
#include "json.h"

#include <mqfs/meta.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Deeper than any sensible header; cJSON itself refuses to parse past 1000. */
#define DEPTH_MAX 64

/* cJSON prints a number with 15 digits, and takes that for exact (its compare_double) when the 16th is lost. */
#define EXACT_MAX INT64_C(999999999999999)

static cJSON *from_value(const struct mqfs_value *value, int depth);

cJSON *json_from_text(const void *text, size_t bytes)
{
	char *repaired = mqfs_utf8_repair(text, bytes);
	cJSON *item = repaired ? cJSON_CreateString(repaired) : NULL;

	free(repaired);
	return item;
}

cJSON *json_from_integer(int64_t number)
{
	char digits[24];

	if (number >= -EXACT_MAX && number <= EXACT_MAX)
		return cJSON_CreateNumber((double)number);
	snprintf(digits, sizeof(digits), "%" PRId64, number);
	return cJSON_CreateRaw(digits);
}

static cJSON *from_unsigned(uint64_t number)
{
	char digits[24];

	if (number <= INT64_MAX)
		return json_from_integer((int64_t)number);
	snprintf(digits, sizeof(digits), "%" PRIu64, number);
	return cJSON_CreateRaw(digits);
}

int json_put(cJSON *object, const char *name, cJSON *item)
{
	char *repaired = item ? mqfs_utf8_repair(name, strlen(name)) : NULL;
	bool added = repaired && cJSON_AddItemToObject(object, repaired, item);

	free(repaired);
	if (!added)
		cJSON_Delete(item);
	return added ? 0 : -ENOMEM;
}

static cJSON *from_array(const struct mqfs_array *array, int depth)
{
	cJSON *list = cJSON_CreateArray();

	for (size_t i = 0; list && i < array->count; i++) {
		cJSON *item = from_value(&array->values[i], depth);

		if (!item || !cJSON_AddItemToArray(list, item)) {
			cJSON_Delete(item);
			cJSON_Delete(list);
			return NULL;
		}
	}
	return list;
}

static cJSON *from_table(const struct mqfs_table *table, int depth)
{
	cJSON *object = cJSON_CreateObject();

	for (size_t i = 0; object && i < table->count; i++) {
		if (json_put(object, table->fields[i].name, from_value(&table->fields[i].value, depth)) < 0) {
			cJSON_Delete(object);
			return NULL;
		}
	}
	return object;
}

static cJSON *from_value(const struct mqfs_value *value, int depth)
{
	if (depth == DEPTH_MAX)
		return cJSON_CreateNull();
	switch (value->kind) {
	case 't':
		return cJSON_CreateBool(value->boolean);
	case 'f':
	case 'd':
		return cJSON_CreateNumber(value->real); /* what is not finite prints as null */
	case 'D':
		return cJSON_CreateNumber(value->decimal.value / pow(10, value->decimal.scale));
	case 'S':
	case 'x':
		return json_from_text(value->bytes.data, value->bytes.bytes);
	case 'A':
		return from_array(&value->array, depth + 1);
	case 'F':
		return from_table(&value->table, depth + 1);
	case 'L':
		return from_unsigned((uint64_t)value->integer);
	case 'V':
		return cJSON_CreateNull();
	default:
		return json_from_integer(value->integer);
	}
}

cJSON *json_from_value(const struct mqfs_value *value)
{
	return from_value(value, 0);
}

/* SPDX-License-Identifier: MIT */
/* Values as JSON: whatever they hold, a parser reads back what it can say. */
#include "fuzz.h"

#include <math.h>

#include "json.h"
#include "utf8.h"

#include <mqfs/meta.h>

#define DEPTH_MAX 64 /* json.c's */

static void expect_item(const struct mqfs_value *value, const cJSON *item, unsigned depth);

static void expect_string(const void *text, size_t bytes, const char *found)
{
	char *repaired = mqfs_utf8_repair(text, bytes);

	EXPECT(repaired && utf8_is_valid(repaired, strlen(repaired)));
	EXPECT(strcmp(repaired, found) == 0);
	EXPECT(!utf8_is_valid(text, bytes) || memchr(text, '\0', bytes) || strlen(repaired) == bytes);
	free(repaired);
}

static void expect_array(const struct mqfs_array *array, const cJSON *item, unsigned depth)
{
	const cJSON *element = item->child;

	EXPECT(cJSON_IsArray(item));
	for (size_t i = 0; i < array->count; i++, element = element->next) {
		EXPECT(element);
		expect_item(&array->values[i], element, depth);
	}
	EXPECT(!element);
}

static void expect_object(const struct mqfs_table *table, const cJSON *item, unsigned depth)
{
	const cJSON *element = item->child;

	EXPECT(cJSON_IsObject(item));
	for (size_t i = 0; i < table->count; i++, element = element->next) {
		EXPECT(element);
		expect_string(table->fields[i].name, strlen(table->fields[i].name), element->string);
		expect_item(&table->fields[i].value, element, depth);
	}
	EXPECT(!element);
}

static void expect_real(double real, const cJSON *item)
{
	if (!isfinite(real)) {
		EXPECT(cJSON_IsNull(item));
		return;
	}
	EXPECT(cJSON_IsNumber(item) && fabs(item->valuedouble - real) <= fabs(real) * 1e-14);
}

static void expect_item(const struct mqfs_value *value, const cJSON *item, unsigned depth)
{
	if (depth == DEPTH_MAX) {
		EXPECT(cJSON_IsNull(item));
		return;
	}
	switch (value->kind) {
	case 't':
		EXPECT(cJSON_IsBool(item) && cJSON_IsTrue(item) == value->boolean);
		break;
	case 'f':
	case 'd':
		expect_real(value->real, item);
		break;
	case 'D':
		expect_real(value->decimal.value / pow(10, value->decimal.scale), item);
		break;
	case 'S':
	case 'x':
		EXPECT(cJSON_IsString(item));
		expect_string(value->bytes.data, value->bytes.bytes, item->valuestring);
		break;
	case 'A':
		expect_array(&value->array, item, depth + 1);
		break;
	case 'F':
		expect_object(&value->table, item, depth + 1);
		break;
	case 'V':
		EXPECT(cJSON_IsNull(item));
		break;
	case 'L':
		EXPECT(cJSON_IsNumber(item) && item->valuedouble == (double)(uint64_t)value->integer);
		break;
	default:
		EXPECT(cJSON_IsNumber(item) && item->valuedouble == (double)value->integer);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {.at = data, .left = size};
	struct mqfs_value value, copy;
	cJSON *item, *parsed;
	char *text;

	input_value(&input, 8, &value);
	EXPECT(mqfs_value_copy(&value, &copy) == 0 && same_value(&value, &copy));
	item = json_from_value(&copy);
	mqfs_value_clear(&copy);
	text = item ? cJSON_PrintUnformatted(item) : NULL;
	EXPECT(text && utf8_is_valid(text, strlen(text)));
	parsed = cJSON_ParseWithOpts(text, NULL, 1);
	EXPECT(parsed);
	expect_item(&value, parsed, 0);
	cJSON_Delete(parsed);
	free(text);
	cJSON_Delete(item);
	mqfs_value_clear(&value);
	return 0;
}

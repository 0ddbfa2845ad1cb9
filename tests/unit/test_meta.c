/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "utf8.h"

#include <mqfs/clock.h>
#include <mqfs/failure.h>
#include <mqfs/meta.h>

#include <cjson/cJSON.h>
#include <math.h>

#define NOW INT64_C(1769860800000042)

static struct mqfs_settings settings;

static const char *const keys[] = {
    "id",           "queue",        "state",           "priority",       "attempts",
    "max_attempts", "published_at", "first_failed_at", "last_failed_at", "next_at",
    "dead_at",      "dead_reason",  "error",           "host",           "redelivered",
    "claimed_by",   "claimed_at",   "expires_at",      "properties",     "headers",
    "x_death",
};

#define KEYS (sizeof(keys) / sizeof(keys[0]))

static int setup(void **state)
{
	struct mqfs_message *message = unit_message("body");

	mqfs_settings_init(&settings);
	*state = mqfs_delivery_new(message, "jobs");
	return 0;
}

static int teardown(void **state)
{
	mqfs_delivery_unref(*state);
	return 0;
}

/* The text must hold all keys, be UTF-8 that ends in one newline, and print as it was parsed. */
static cJSON *tell(const struct mqfs_delivery *delivery)
{
	char *text = mqfs_meta_json(delivery, &settings);
	size_t bytes;
	cJSON *meta;

	assert_non_null(text);
	bytes = strlen(text);
	assert_int_equal(text[bytes - 1], '\n');
	assert_true(utf8_is_valid(text, bytes));
	meta = cJSON_Parse(text);
	assert_non_null(meta);
	assert_int_equal(cJSON_GetArraySize(meta), KEYS);
	for (size_t i = 0; i < KEYS; i++)
		assert_non_null(cJSON_GetObjectItemCaseSensitive(meta, keys[i]));
	free(text);
	return meta;
}

static void is_text(const cJSON *object, const char *key, const char *expected)
{
	assert_non_null(cJSON_GetObjectItemCaseSensitive(object, key));
	assert_non_null(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key)));
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key)), expected);
}

static void is_number(const cJSON *object, const char *key, double expected)
{
	assert_true(cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(object, key)));
	assert_true(cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(object, key)) == expected);
}

static void is_null(const cJSON *object, const char *key)
{
	assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(object, key)));
}

static void tells_a_bare_message(void **state)
{
	cJSON *meta = tell(*state);

	is_null(meta, "id");
	is_text(meta, "queue", "jobs");
	is_text(meta, "state", "pending");
	is_null(meta, "priority");
	is_number(meta, "attempts", 0);
	is_number(meta, "max_attempts", 8);
	for (const char *const *key = &keys[6]; strcmp(*key, "redelivered") != 0; key++)
		is_null(meta, *key);
	assert_true(cJSON_IsFalse(cJSON_GetObjectItem(meta, "redelivered")));
	is_null(meta, "claimed_by");
	is_null(meta, "claimed_at");
	is_null(meta, "expires_at");
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(meta, "headers")), 0);
	assert_true(cJSON_IsArray(cJSON_GetObjectItem(meta, "x_death")));
	cJSON_Delete(meta);
}

static void tells_a_claim(void **state)
{
	struct mqfs_delivery *delivery = *state;
	char now[MQFS_RFC3339_BYTES];
	cJSON *meta;

	mqfs_message_stamp(delivery->message, "a.json", NOW);
	delivery->message->priority = 9;
	delivery->state = MQFS_DELIVERY_CLAIMED;
	delivery->redelivered = true;
	delivery->claimed_us = mqfs_clock_realtime_us();
	delivery->expires_ms = mqfs_clock_monotonic_ms() + 3600000;
	strcpy(delivery->claimed_by, "pid 4711 (sh)");
	delivery->error = strdup("words of a handler");
	meta = tell(delivery);
	is_text(meta, "id", delivery->message->message_id);
	is_text(meta, "state", "claimed");
	is_number(meta, "priority", 9);
	is_number(meta, "attempts", 1); /* the present one counts */
	is_text(meta, "published_at", "2026-01-31T12:00:00.000042Z");
	is_text(meta, "claimed_by", "pid 4711 (sh)");
	is_text(meta, "claimed_at", mqfs_clock_rfc3339(delivery->claimed_us, now));
	is_text(meta, "error", "words of a handler");
	assert_true(cJSON_IsTrue(cJSON_GetObjectItem(meta, "redelivered")));
	/* to the minute: an hour from now, unless the minute ends in between */
	mqfs_clock_rfc3339(mqfs_clock_realtime_us() + INT64_C(3600000000), now);
	assert_int_equal(strlen(cJSON_GetObjectItem(meta, "expires_at")->valuestring), 27);
	assert_memory_equal(cJSON_GetObjectItem(meta, "expires_at")->valuestring, now, 11);
	is_text(cJSON_GetObjectItem(meta, "properties"), "content_type", "application/json");
	is_text(cJSON_GetObjectItem(meta, "headers"), "mqfs-filename", "a.json");
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(meta, "headers")), 1); /* no other of ours */
	cJSON_Delete(meta);

	delivery->state = MQFS_DELIVERY_SETTLING; /* as people see it */
	meta = tell(delivery);
	is_text(meta, "state", "claimed");
	cJSON_Delete(meta);
}

static struct mqfs_delivery *failed_delivery(const struct mqfs_message *message, enum mqfs_place place)
{
	struct mqfs_failed_attempt attempt = {.attempts = 3,
	                                      .now_us = NOW,
	                                      .next_at_us = NOW + 1000000,
	                                      .error = "why",
	                                      .dead_reason = "max-attempts",
	                                      .host = "h",
	                                      .queue = "jobs"};
	struct mqfs_message *copy =
	    place == MQFS_PLACE_DEAD ? mqfs_copy_for_dead(message, &attempt) : mqfs_copy_for_retry(message, &attempt);
	struct mqfs_delivery *delivery = mqfs_delivery_new(copy, "jobs");

	delivery->place = place;
	return delivery;
}

static void tells_what_waits_and_what_is_dead(void **state)
{
	struct mqfs_delivery *delivery = *state, *retry, *dead;
	cJSON *meta;

	mqfs_headers_set_integer(&delivery->message->headers, "mqfs-max-attempts", 12);
	retry = failed_delivery(delivery->message, MQFS_PLACE_RETRY);
	meta = tell(retry);
	is_text(meta, "state", "retry");
	is_number(meta, "attempts", 3);
	is_number(meta, "max_attempts", 12);
	is_text(meta, "first_failed_at", "2026-01-31T12:00:00.000042Z");
	is_text(meta, "last_failed_at", "2026-01-31T12:00:00.000042Z");
	is_text(meta, "next_at", "2026-01-31T12:00:01.000042Z");
	is_text(meta, "error", "why");
	is_text(meta, "host", "h");
	is_null(meta, "dead_at");
	cJSON_Delete(meta);
	retry->next_at_us = NOW + 2000000; /* the backend knows better */
	meta = tell(retry);
	is_text(meta, "next_at", "2026-01-31T12:00:02.000042Z");
	cJSON_Delete(meta);

	dead = failed_delivery(retry->message, MQFS_PLACE_DEAD);
	meta = tell(dead);
	is_text(meta, "state", "dead");
	is_null(meta, "next_at");
	is_text(meta, "dead_at", "2026-01-31T12:00:00.000042Z");
	is_text(meta, "dead_reason", "max-attempts");
	cJSON_Delete(meta);
	mqfs_delivery_unref(retry);
	mqfs_delivery_unref(dead);
}

static void tells_x_death_as_found(void **state)
{
	struct mqfs_delivery *delivery = *state, *dead;
	struct mqfs_table death = {0};
	struct mqfs_array deaths = {0};
	cJSON *meta, *entry;

	unit_add(&death, "reason", unit_text("rejected"));
	unit_add(&death, "queue", unit_text("jobs"));
	unit_add(&death, "count", (struct mqfs_value){.kind = 'l', .integer = 2});
	unit_add(&death, "time", (struct mqfs_value){.kind = 'T', .integer = 1700000000});
	unit_push(&deaths, (struct mqfs_value){.kind = 'F', .table = death});
	unit_add(&delivery->message->headers, "x-death", (struct mqfs_value){.kind = 'A', .array = deaths});
	delivery->place = MQFS_PLACE_DEAD;
	meta = tell(delivery);
	is_number(meta, "attempts", 2);
	is_text(meta, "dead_reason", "rejected");
	is_text(meta, "dead_at", "2023-11-14T22:13:20.000000Z");
	entry = cJSON_GetArrayItem(cJSON_GetObjectItem(meta, "x_death"), 0);
	is_text(entry, "queue", "jobs");
	is_number(entry, "count", 2);
	is_number(entry, "time", 1700000000);
	assert_null(cJSON_GetObjectItem(cJSON_GetObjectItem(meta, "headers"), "x-death"));
	cJSON_Delete(meta);

	dead = failed_delivery(delivery->message, MQFS_PLACE_DEAD); /* parked in the copy */
	meta = tell(dead);
	is_text(cJSON_GetArrayItem(cJSON_GetObjectItem(meta, "x_death"), 0), "queue", "jobs");
	cJSON_Delete(meta);
	mqfs_delivery_unref(dead);
}

static void tells_every_kind_of_header(void **state)
{
	struct mqfs_delivery *delivery = *state;
	struct mqfs_table *headers = &delivery->message->headers;
	char *text;
	cJSON *meta, *told;

	unit_add(headers, "t", (struct mqfs_value){.kind = 't', .boolean = true});
	unit_add(headers, "I", (struct mqfs_value){.kind = 'I', .integer = -5});
	unit_add(headers, "l", (struct mqfs_value){.kind = 'l', .integer = INT64_MIN});
	unit_add(headers, "L", (struct mqfs_value){.kind = 'L', .integer = -1});
	unit_add(headers, "us", (struct mqfs_value){.kind = 'l', .integer = INT64_C(1795382088392573)});
	unit_add(headers, "d", (struct mqfs_value){.kind = 'd', .real = 0.1});
	unit_add(headers, "nan", (struct mqfs_value){.kind = 'd', .real = NAN});
	unit_add(headers, "inf", (struct mqfs_value){.kind = 'f', .real = INFINITY});
	unit_add(headers, "D", (struct mqfs_value){.kind = 'D', .decimal = {.scale = 2, .value = 314}});
	unit_add(headers, "tiny", (struct mqfs_value){.kind = 'D', .decimal = {.scale = 255, .value = 1}});
	unit_add(headers, "V", (struct mqfs_value){.kind = 'V'});
	unit_add(headers, "S", unit_text("\"\\/\b\n\t\x01\x7f gr\xc3\xbc\xc3\x9f \xff"));
	mqfs_headers_set_bytes(headers, "nul", "a\0b", 3);
	unit_add(headers, "bad \xff name", unit_text("x"));
	text = mqfs_meta_json(delivery, &settings);
	assert_non_null(strstr(text, "-9223372036854775808")); /* to the digit, as no double could */
	assert_non_null(strstr(text, "18446744073709551615"));
	assert_non_null(strstr(text, "1795382088392573"));
	free(text);

	meta = tell(delivery);
	told = cJSON_GetObjectItem(meta, "headers");
	assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(told, "t")));
	is_number(told, "I", -5);
	is_number(told, "d", 0.1);
	is_null(told, "nan");
	is_null(told, "inf");
	is_number(told, "D", 3.14);
	is_null(told, "V");
	is_text(told, "S", "\"\\/\b\n\t\x01\x7f gr\xc3\xbc\xc3\x9f \xef\xbf\xbd");
	is_text(told, "nul",
	        "a\xef\xbf\xbd"
	        "b");
	is_text(told, "bad \xef\xbf\xbd name", "x");
	cJSON_Delete(meta);
}

static void bounds_the_depth(void **state)
{
	struct mqfs_delivery *delivery = *state;
	struct mqfs_value value = {.kind = 'V'};
	cJSON *meta;

	for (int i = 0; i < 2000; i++) {
		struct mqfs_array array = {0};

		unit_push(&array, value);
		value = (struct mqfs_value){.kind = 'A', .array = array};
	}
	unit_add(&delivery->message->headers, "lists", value);
	value = (struct mqfs_value){.kind = 'V'};
	for (int i = 0; i < 2000; i++) {
		struct mqfs_table table = {0};

		unit_add(&table, "in", value);
		value = (struct mqfs_value){.kind = 'F', .table = table};
	}
	unit_add(&delivery->message->headers, "tables", value);
	meta = tell(delivery); /* cJSON refuses to parse past 1000 */
	cJSON_Delete(meta);
}

static struct mqfs_value random_value(uint64_t *seed, int depth)
{
	static const char kinds[] = "tbBsuIilLTfdDSSxxAFV";
	struct mqfs_value value = {.kind = kinds[unit_random(seed) % (sizeof(kinds) - 1)]};
	size_t count = unit_random(seed) % 6;
	char name[8];

	if ((value.kind == 'A' || value.kind == 'F') && depth == 0)
		value.kind = 'V';
	switch (value.kind) {
	case 'S':
	case 'x':
		value.bytes.data = calloc(1, count + 1);
		value.bytes.bytes = count;
		for (size_t i = 0; i < count; i++)
			value.bytes.data[i] = (char)unit_random(seed);
		break;
	case 'A':
		for (size_t i = 0; i < count; i++)
			unit_push(&value.array, random_value(seed, depth - 1));
		break;
	case 'F':
		for (size_t i = 0; i < count; i++) {
			for (size_t j = 0; j < sizeof(name); j++)
				name[j] = (char)unit_random(seed);
			name[sizeof(name) - 1] = '\0';
			unit_add(&value.table, name, random_value(seed, depth - 1));
		}
		break;
	case 'f':
	case 'd':
		value.real = (double)(int64_t)unit_random(seed) / 1e9;
		break;
	case 't':
		value.boolean = unit_random(seed) & 1;
		break;
	case 'D':
		value.decimal.scale = (uint8_t)unit_random(seed);
		value.decimal.value = (uint32_t)unit_random(seed);
		break;
	case 'V':
		break;
	default:
		value.integer = (int64_t)unit_random(seed);
	}
	return value;
}

static void survives_strangers(void **state)
{
	uint64_t seed = 17;

	(void)state;
	for (int i = 0; i < 3000; i++) {
		struct mqfs_delivery *delivery = mqfs_delivery_new(unit_message(""), "q\xff\n");
		char id[9] = "";

		for (int j = 0; j < 8; j++)
			id[j] = (char)unit_random(&seed);
		mqfs_message_set_string(&delivery->message->message_id, id);
		delivery->message->timestamp = unit_random(&seed);
		delivery->place = unit_random(&seed) % 3;
		delivery->claimed_us = (int64_t)unit_random(&seed);
		for (int j = 0; j < 5; j++) {
			static const char *const names[] = {
			    "x-death", "mqfs-attempts", "mqfs-error",   "mqfs-next-at",
			    "h",       "mqfs-x-death",  "mqfs-dead-at", "mqfs-published"};

			unit_add(&delivery->message->headers, names[unit_random(&seed) % 8], random_value(&seed, 4));
		}
		cJSON_Delete(tell(delivery));
		mqfs_delivery_unref(delivery);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(tells_a_bare_message, setup, teardown),
	    cmocka_unit_test_setup_teardown(tells_a_claim, setup, teardown),
	    cmocka_unit_test_setup_teardown(tells_what_waits_and_what_is_dead, setup, teardown),
	    cmocka_unit_test_setup_teardown(tells_x_death_as_found, setup, teardown),
	    cmocka_unit_test_setup_teardown(tells_every_kind_of_header, setup, teardown),
	    cmocka_unit_test_setup_teardown(bounds_the_depth, setup, teardown),
	    cmocka_unit_test(survives_strangers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

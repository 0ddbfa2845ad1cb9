/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>

#include <amqp.h>

#include "amqp/properties.h"

/* Through librabbitmq's own codec, as on the wire. Fills bytes and returns their number. */
static size_t encode(const struct mqfs_message *message, uint8_t *bytes, size_t room)
{
	amqp_basic_properties_t properties;
	amqp_pool_t pool;
	int length;

	init_amqp_pool(&pool, 4096);
	assert_int_equal(properties_write(message, &pool, &properties), 0);
	length = amqp_encode_properties(AMQP_BASIC_CLASS, &properties, (amqp_bytes_t){.len = room, .bytes = bytes});
	assert_true(length > 0);
	empty_amqp_pool(&pool);
	return (size_t)length;
}

/* NULL: not AMQP. */
static struct mqfs_message *decode(const uint8_t *bytes, size_t length)
{
	struct mqfs_message *message = NULL;
	void *properties;
	amqp_pool_t pool;

	init_amqp_pool(&pool, 4096);
	if (amqp_decode_properties(AMQP_BASIC_CLASS, &pool, (amqp_bytes_t){.len = length, .bytes = (void *)bytes},
	                           &properties) >= 0) {
		message = mqfs_message_new();
		assert_non_null(message);
		assert_int_equal(properties_read(properties, message), 0);
	}
	empty_amqp_pool(&pool);
	return message;
}

static struct mqfs_message *through(const struct mqfs_message *message)
{
	static uint8_t bytes[131072];
	size_t length = encode(message, bytes, sizeof(bytes));

	/* class, weight and body size stand before them in the frame */
	assert_int_equal(properties_encoded_bytes(message), 12 + length);
	return decode(bytes, length);
}

static void assert_same(const struct mqfs_value *a, const struct mqfs_value *b)
{
	assert_int_equal(a->kind, b->kind);
	switch (a->kind) {
	case 't':
		assert_int_equal(a->boolean, b->boolean);
		return;
	case 'f':
	case 'd':
		assert_true(a->real == b->real);
		return;
	case 'D':
		assert_int_equal(a->decimal.scale, b->decimal.scale);
		assert_int_equal(a->decimal.value, b->decimal.value);
		return;
	case 'S':
	case 'x':
		assert_int_equal(a->bytes.bytes, b->bytes.bytes);
		assert_memory_equal(a->bytes.data, b->bytes.data, a->bytes.bytes);
		assert_int_equal(b->bytes.data[b->bytes.bytes], 0);
		return;
	case 'A':
		assert_int_equal(a->array.count, b->array.count);
		for (size_t i = 0; i < a->array.count; i++)
			assert_same(&a->array.values[i], &b->array.values[i]);
		return;
	case 'F':
		assert_int_equal(a->table.count, b->table.count);
		for (size_t i = 0; i < a->table.count; i++) {
			assert_string_equal(a->table.fields[i].name, b->table.fields[i].name);
			assert_same(&a->table.fields[i].value, &b->table.fields[i].value);
		}
		return;
	case 'V':
		return;
	default:
		assert_true(a->integer == b->integer);
	}
}

static void assert_headers(const struct mqfs_message *a, const struct mqfs_message *b)
{
	struct mqfs_value one = {.kind = 'F', .table = a->headers}, other = {.kind = 'F', .table = b->headers};

	assert_same(&one, &other);
}

static void every_property_comes_through(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *copy;

	(void)state;
	message->content_type = strdup("text/plain");
	message->content_encoding = strdup("gzip");
	message->correlation_id = strdup("c");
	message->reply_to = strdup("r");
	message->expiration = strdup("60000");
	message->message_id = strdup("m");
	message->type = strdup("t");
	message->user_id = strdup("u");
	message->app_id = strdup("");
	message->priority = 0;
	message->timestamp = 1700000000;
	message->delivery_mode = 1;
	copy = through(message);
	assert_string_equal(copy->content_type, "text/plain");
	assert_string_equal(copy->content_encoding, "gzip");
	assert_string_equal(copy->correlation_id, "c");
	assert_string_equal(copy->reply_to, "r");
	assert_string_equal(copy->expiration, "60000");
	assert_string_equal(copy->message_id, "m");
	assert_string_equal(copy->type, "t");
	assert_string_equal(copy->user_id, "u");
	assert_string_equal(copy->app_id, "");
	assert_int_equal(copy->priority, 0);
	assert_int_equal(copy->timestamp, 1700000000);
	assert_int_equal(copy->delivery_mode, 2); /* whatever it was */
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void absent_stays_absent(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *copy = through(message);

	(void)state;
	assert_null(copy->content_type);
	assert_null(copy->message_id);
	assert_null(copy->user_id);
	assert_int_equal(copy->priority, -1);
	assert_int_equal(copy->timestamp, 0);
	assert_int_equal(copy->headers.count, 0);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void add_integer(struct mqfs_message *message, char kind, int64_t integer)
{
	char name[] = {kind, (char)('a' + (message->headers.count % 26)), '\0'};

	unit_add(&message->headers, name, (struct mqfs_value){.kind = kind, .integer = integer});
}

static void every_kind_comes_through(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *copy;
	struct mqfs_value array = {.kind = 'A'}, table = {.kind = 'F'};

	(void)state;
	add_integer(message, 'b', INT8_MIN);
	add_integer(message, 'B', UINT8_MAX);
	add_integer(message, 's', INT16_MIN);
	add_integer(message, 'u', UINT16_MAX);
	add_integer(message, 'I', INT32_MIN);
	add_integer(message, 'i', UINT32_MAX);
	add_integer(message, 'l', INT64_MIN);
	add_integer(message, 'T', 1700000000);
	unit_add(&message->headers, "t", (struct mqfs_value){.kind = 't', .boolean = true});
	unit_add(&message->headers, "f", (struct mqfs_value){.kind = 'f', .real = 0.25});
	unit_add(&message->headers, "d", (struct mqfs_value){.kind = 'd', .real = 1e300});
	unit_add(&message->headers, "D",
	         (struct mqfs_value){.kind = 'D', .decimal = {.scale = 255, .value = UINT32_MAX}});
	unit_add(&message->headers, "V", (struct mqfs_value){.kind = 'V'});
	unit_add(&message->headers, "S", unit_text("text"));
	unit_push(&array.array, unit_text(""));
	unit_push(&array.array, (struct mqfs_value){.kind = 'A'});
	unit_push(&array.array, (struct mqfs_value){.kind = 'F'});
	unit_add(&table.table, "array", array);
	unit_add(&message->headers, "F", table);
	copy = through(message);
	assert_headers(message, copy);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void bytes_keep_their_zeros(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *copy;
	struct mqfs_value bytes = {.kind = 'x', .bytes = {.data = memcpy(calloc(1, 6), "\0a\0b\xff", 5), .bytes = 5}};

	(void)state;
	unit_add(&message->headers, "x", bytes);
	copy = through(message);
	assert_headers(message, copy);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

/* RabbitMQ doesn't know 'L'. */
static void unsigned_64_bits_become_signed(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *copy;

	(void)state;
	add_integer(message, 'L', 7);
	copy = through(message);
	assert_int_equal(copy->headers.fields[0].value.kind, 'l');
	assert_int_equal(copy->headers.fields[0].value.integer, 7);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

static void long_texts_are_refused(void **state)
{
	struct mqfs_message *message = mqfs_message_new();
	amqp_basic_properties_t properties;
	amqp_pool_t pool;
	char text[257];

	(void)state;
	init_amqp_pool(&pool, 4096);
	memset(text, 'a', sizeof(text));
	text[256] = '\0';
	mqfs_message_set_string(&message->type, text);
	assert_int_equal(properties_write(message, &pool, &properties), -EINVAL);
	mqfs_message_set_string(&message->type, text + 1);
	assert_int_equal(properties_write(message, &pool, &properties), 0);
	unit_add(&message->headers, text, unit_text(""));
	assert_int_equal(properties_write(message, &pool, &properties), -EINVAL);
	empty_amqp_pool(&pool);
	mqfs_message_free(message);
}

static unsigned depth_of(const struct mqfs_value *value)
{
	return value->kind == 'A' && value->array.count > 0 ? 1 + depth_of(&value->array.values[0]) : 0;
}

/* headers { "h": [[[[...]]]] }, as deep as a frame allows. */
static void deep_nesting_is_cut(void **state)
{
	enum { DEPTH = 26000, LENGTH = 2 + 4 + 2 + DEPTH * 5 };
	uint8_t *bytes = calloc(1, LENGTH), *at = bytes;
	struct mqfs_message *message;
	uint32_t left = LENGTH - 2;

	(void)state;
	*at++ = AMQP_BASIC_HEADERS_FLAG >> 8;
	*at++ = 0;
	for (int i = 0; i <= DEPTH; i++) {
		left -= 4;
		*at++ = (uint8_t)(left >> 24);
		*at++ = (uint8_t)(left >> 16);
		*at++ = (uint8_t)(left >> 8);
		*at++ = (uint8_t)left;
		if (i == 0) {
			*at++ = 1;
			*at++ = 'h';
			left -= 2;
		}
		if (i < DEPTH) {
			*at++ = 'A';
			left -= 1;
		}
	}
	assert_int_equal(at - bytes, LENGTH);
	message = decode(bytes, LENGTH);
	assert_non_null(message);
	assert_int_equal(depth_of(&message->headers.fields[0].value), PROPERTIES_DEPTH_MAX - 1);
	mqfs_message_free(message);
	free(bytes);
}

/* What comes through a broken codec gives an error or a message, never a crash. */
static void hostile_bytes_are_survived(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *found;
	struct mqfs_value table = {.kind = 'F'};
	uint8_t good[1024], bytes[1024];
	uint64_t random = 1;
	size_t length;

	(void)state;
	message->message_id = strdup("id");
	message->priority = 3;
	unit_add(&table.table, "text", unit_text("text"));
	unit_add(&message->headers, "table", table);
	unit_add(&message->headers, "number", (struct mqfs_value){.kind = 'l', .integer = 1});
	length = encode(message, good, sizeof(good));
	for (int i = 0; i < 200000; i++) {
		memcpy(bytes, good, length);
		for (int j = 0; j < 3; j++)
			bytes[unit_random(&random) % length] = (uint8_t)unit_random(&random);
		found = decode(bytes, length);
		if (found)
			mqfs_message_free(mqfs_message_copy(found));
		mqfs_message_free(found);
	}
	mqfs_message_free(message);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_property_comes_through),
	    cmocka_unit_test(absent_stays_absent),
	    cmocka_unit_test(every_kind_comes_through),
	    cmocka_unit_test(bytes_keep_their_zeros),
	    cmocka_unit_test(unsigned_64_bits_become_signed),
	    cmocka_unit_test(long_texts_are_refused),
	    cmocka_unit_test(deep_nesting_is_cut),
	    cmocka_unit_test(hostile_bytes_are_survived),
	};

	return cmocka_run_group_tests_name("amqp properties", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
#include "fuzz.h"

#define TEXT_LONG 240 /* a length byte from here on: (length - 239) half kilobytes of a pattern */
#define ELEMENTS_MAX 24

uint64_t input_number(struct input *input, unsigned bytes)
{
	uint64_t number = 0;

	for (; bytes > 0; bytes--) {
		number = number << 8 | (input->left > 0 ? *input->at : 0);
		input->at += input->left > 0;
		input->left -= input->left > 0;
	}
	return number;
}

uint8_t input_byte(struct input *input)
{
	return (uint8_t)input_number(input, 1);
}

unsigned input_below(struct input *input, unsigned limit)
{
	return input_byte(input) % limit;
}

static size_t take(struct input *input, char *to, size_t bytes)
{
	if (bytes > input->left)
		bytes = input->left;
	if (bytes > 0)
		memcpy(to, input->at, bytes);
	input->at += bytes;
	input->left -= bytes;
	return bytes;
}

char *input_bytes(struct input *input, size_t *ret_bytes)
{
	size_t length = input_byte(input), pattern;
	char *text = malloc(16 * 512 + 256);

	EXPECT(text);
	if (length < TEXT_LONG) {
		*ret_bytes = take(input, text, length);
	} else {
		*ret_bytes = (length - TEXT_LONG + 1) * 512;
		pattern = take(input, text, input_byte(input));
		for (size_t i = pattern; i < *ret_bytes; i++)
			text[i] = pattern > 0 ? text[i - pattern] : 'x';
	}
	text[*ret_bytes] = '\0';
	text = realloc(text, *ret_bytes + 1); /* so that reading past the end is seen */
	EXPECT(text);
	return text;
}

char *input_text(struct input *input)
{
	size_t bytes;
	char *text = input_bytes(input, &bytes);

	text = realloc(text, strlen(text) + 1);
	EXPECT(text);
	return text;
}

static int64_t input_integer(struct input *input, char kind)
{
	switch (kind) {
	case 'b':
		return (int8_t)input_number(input, 1);
	case 'B':
		return (uint8_t)input_number(input, 1);
	case 's':
		return (int16_t)input_number(input, 2);
	case 'u':
		return (uint16_t)input_number(input, 2);
	case 'I':
		return (int32_t)input_number(input, 4);
	case 'i':
		return (uint32_t)input_number(input, 4);
	default:
		return (int64_t)input_number(input, 8);
	}
}

static double input_real(struct input *input, char kind)
{
	uint64_t bits = input_number(input, kind == 'f' ? 4 : 8);
	uint32_t half = (uint32_t)bits;
	double real;
	float single;

	memcpy(&single, &half, sizeof(single));
	memcpy(&real, &bits, sizeof(real));
	return kind == 'f' ? (double)single : real;
}

/* What a header's name often is; a byte says which, or that another name follows. */
static char *input_name(struct input *input)
{
	static const char *const names[] = {
	    "x-death",
	    "count",
	    "reason",
	    "queue",
	    "time",
	    "exchange",
	    "routing-keys",
	    "original-expiration",
	    "x-delivery-count",
	    "x-first-death-reason",
	    "x-last-death-queue",
	    "CC",
	    "BCC",
	    "mqfs-copy",
	    "mqfs-filename",
	    "mqfs-published",
	    "mqfs-attempts",
	    "mqfs-max-attempts",
	    "mqfs-first-failed",
	    "mqfs-last-failed",
	    "mqfs-next-at",
	    "mqfs-dead-at",
	    "mqfs-dead-reason",
	    "mqfs-error",
	    "mqfs-host",
	    "mqfs-queue",
	    "mqfs-expiration",
	    "mqfs-user-id",
	    "mqfs-cc",
	    "mqfs-bcc",
	    "mqfs-x-death",
	};
	unsigned which = input_below(input, 64);
	char *name = which < sizeof(names) / sizeof(names[0]) ? strdup(names[which]) : input_text(input);

	EXPECT(name);
	return name;
}

static void input_table(struct input *input, unsigned depth, struct mqfs_table *ret_table)
{
	size_t count = input_below(input, ELEMENTS_MAX);

	*ret_table = (struct mqfs_table){.fields = calloc(count + 1, sizeof(*ret_table->fields))};
	EXPECT(ret_table->fields);
	for (; ret_table->count < count && input->left > 0; ret_table->count++) {
		struct mqfs_field *field = &ret_table->fields[ret_table->count];

		field->name = input_name(input);
		input_value(input, depth, &field->value);
	}
}

static void input_array(struct input *input, unsigned depth, struct mqfs_array *ret_array)
{
	size_t count = input_below(input, ELEMENTS_MAX);

	*ret_array = (struct mqfs_array){.values = calloc(count + 1, sizeof(*ret_array->values))};
	EXPECT(ret_array->values);
	for (; ret_array->count < count && input->left > 0; ret_array->count++)
		input_value(input, depth, &ret_array->values[ret_array->count]);
}

/* Tables in arrays in tables: more than anybody nests, in two bytes. */
static void input_nest(struct input *input, unsigned depth, struct mqfs_value *ret_value)
{
	unsigned levels = input_byte(input);
	struct mqfs_value value, outer;

	input_value(input, depth, &value);
	for (unsigned i = 0; i < levels; i++) {
		outer = (struct mqfs_value){.kind = 'A'};
		outer.array = (struct mqfs_array){.values = malloc(sizeof(value)), .count = 1};
		EXPECT(outer.array.values);
		outer.array.values[0] = value;
		value = outer;
	}
	*ret_value = value;
}

void input_value(struct input *input, unsigned depth, struct mqfs_value *ret_value)
{
	static const char kinds[] = "SlAFtTdDVbBsuIiLfxN";
	char kind = kinds[input_below(input, sizeof(kinds) - 1)];

	if (depth == 0 && strchr("AFN", kind))
		kind = 'V';
	*ret_value = (struct mqfs_value){.kind = kind};
	switch (kind) {
	case 't':
		ret_value->boolean = input_byte(input) & 1;
		break;
	case 'f':
	case 'd':
		ret_value->real = input_real(input, kind);
		break;
	case 'D':
		ret_value->decimal.scale = input_byte(input);
		ret_value->decimal.value = (uint32_t)input_number(input, 4);
		break;
	case 'S':
	case 'x':
		ret_value->bytes.data = input_bytes(input, &ret_value->bytes.bytes);
		break;
	case 'A':
		input_array(input, depth - 1, &ret_value->array);
		break;
	case 'F':
		input_table(input, depth - 1, &ret_value->table);
		break;
	case 'N':
		input_nest(input, depth - 1, ret_value);
		break;
	case 'V':
		break;
	default:
		ret_value->integer = input_integer(input, kind);
	}
}

void input_headers(struct input *input, struct mqfs_table *ret_headers)
{
	input_table(input, 8, ret_headers);
}

struct mqfs_message *input_message(struct input *input)
{
	struct mqfs_message *message = mqfs_message_new();
	char **const texts[] = {
	    &message->content_type, &message->content_encoding, &message->correlation_id,
	    &message->reply_to,     &message->expiration,       &message->message_id,
	    &message->type,         &message->user_id,          &message->app_id,
	};
	unsigned present = (unsigned)input_number(input, 2);
	size_t bytes;
	char *body;

	EXPECT(message);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (!(present & 1u << i))
			continue;
		*texts[i] = input_text(input);
		(*texts[i])[strnlen(*texts[i], 255)] = '\0'; /* a short string */
	}
	if (present & 1u << 10)
		message->priority = input_byte(input);
	if (present & 1u << 11)
		message->timestamp = input_number(input, 8);
	input_headers(input, &message->headers);
	body = input_bytes(input, &bytes);
	EXPECT(mqfs_body_write(message->body, 0, body, bytes) == 0);
	free(body);
	return message;
}

/* SPDX-License-Identifier: MIT */
/* Settings: the input is a row of names and values, set one after the other. */
#include "fuzz.h"

#include <errno.h>

#include <mqfs/settings.h>

#define ROWS 64 /* more than there are settings: the rest of the byte's values stand for a name that follows */

static char *input_setting(struct input *input)
{
	const struct mqfs_setting *setting = mqfs_setting_at(input_below(input, ROWS));
	char *name = setting ? strdup(setting->name) : input_text(input);

	EXPECT(name);
	return name;
}

/* What get gives, set takes, and nothing changes. */
static void expect_round(const struct mqfs_settings *settings, const char *name)
{
	struct mqfs_settings again = *settings;
	char text[64], small[3];
	int length = mqfs_settings_get(settings, name, text, sizeof(text));

	EXPECT(length > 0 && (size_t)length == strlen(text));
	EXPECT(mqfs_settings_get(settings, name, small, sizeof(small)) == length && strlen(small) < sizeof(small));
	EXPECT(mqfs_settings_set(&again, name, text, NULL) == 0);
	EXPECT(memcmp(&again, settings, sizeof(again)) == 0);
}

static void set_one(struct mqfs_settings *settings, const char *name, const char *value)
{
	struct mqfs_settings before;
	const char *error = NULL;
	char text[8];
	int r;

	memcpy(&before, settings, sizeof(before)); /* padding and all */
	r = mqfs_settings_set(settings, name, value, &error);
	if (r == 0) {
		expect_round(settings, name);
		return;
	}
	EXPECT(r == -EINVAL || r == -ENOENT);
	EXPECT((r == -ENOENT) == !mqfs_setting_find(name));
	EXPECT(error && *error);
	EXPECT(memcmp(&before, settings, sizeof(before)) == 0);
	EXPECT(r == -EINVAL || mqfs_settings_get(settings, name, text, sizeof(text)) == -ENOENT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {.at = data, .left = size};
	struct mqfs_settings settings;

	mqfs_settings_init(&settings);
	while (input.left > 0) {
		char *name = input_setting(&input), *value = input_text(&input);

		set_one(&settings, name, value);
		free(name);
		free(value);
	}
	for (size_t i = 0; mqfs_setting_at(i); i++)
		expect_round(&settings, mqfs_setting_at(i)->name);
	return 0;
}

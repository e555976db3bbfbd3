"""The words of the privacy card."""

TITLES = {
    "trust": "Model of trust",
    "unit": "Unit of privacy",
    "neighbouring": "Neighbouring relation",
    "released": "What is released",
    "noise": "Clip and noise",
    "sampling": "Sampling",
    "accounting": "Accounting",
    "composition": "Composition",
    "not_protected": "What is not protected",
    "choices": "Choices that depend on data and were made without privacy",
    "evidence": "Audit and code",
}
TRUST = {
    "device": "the device only",
    "gateway": "the gateway that the user belongs to",
    "server": "the server",
    "none": "everybody",
}
RAW = {
    "device": "nobody: an update is noised before it leaves its device",
    "gateway": "the gateway; the server sees sums that the gateway has noised",
    "server": "the server, which clips again what it is sent and adds the noise",
    "none": "everybody",
}
ADDED = {
    "device": "on each device, before anything leaves it",
    "gateway": "at the gateway, before anything leaves it",
    "server": "at the server, on the sum of a round",
    "none": "nowhere",
}
ENFORCED = {
    "interaction": "a positive and its negatives are one example, drawn, clipped and noised together on the device; a "
    "statistic has the noise of its own largest change",
    "user": "the whole update of a user is clipped, over all of its arrays, with weight 1; a device is one user",
    "gateway": "a user's whole batch is one example: its gradient is clipped at the gateway, over all parameters; a "
    "statistic is clipped for each user",
    "none": "nothing is bounded",
}
MEANING = {
    "add-remove": "one unit's contribution is there, or nothing is in its place; the sizes are public constants",
    "replace-one": "one unit's contribution is exchanged for any other one",
    "none": "none",
}
SAMPLING = {
    "device": "sampling of the cohort buys nothing, for the server knows it; each step samples the device's own data",
    "gateway": "sampling of the cohort buys nothing, for the server knows it",
    "server": "Poisson: each device is drawn independently in each round, and who was drawn stays with the server",
    "none": "no claim rests on it",
}
SECURE = "the operating system's, asked anew for each draw; no seed can repeat it, and nothing of it is kept"
UNACCOUNTED = "tuning, evaluation and the choice of this run among others, unless they are charged here"
NOT_PROTECTED = (
    "who is enrolled",
    "the catalogue of items",
    "how much is sent and when",
    "which rounds were aborted and who was available",
    "what lies on the device itself",
)

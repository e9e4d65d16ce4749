"""Page topics of AdX ("detected verticals") as standard interest tags.

The numbers are Google's topic ids, the same in its ad exchange, its ads API and its trends pages; source of their
meaning: developers.google.com/google-ads/api/data/topics. Listed are the topics that match a standard interest; an
id that is not listed tells nothing. Topics of ethnicity, orientation, religion, politics, health and dating are
left out on purpose: they would make sensitive tags.
"""

from collections.abc import Iterable

_IDS: dict[str, str] = {
    "arts": "23 24 439 477 581 653 654 894 1167 1361",
    "entertainment": "3 33 34 36 182 184 211 275 316 317 318 319 358 359 447 539 569 612 613 891 895 978 979 1047 "
    "1049 1085 1094 1095 1096 1097 1104 1110 1112 1116 1174 1187 1193 1222",
    "music": "35 215 216 220 586 587 588 589 590 591 592 593 617 1020 1021 1024 1027 1030 1035 1036 1037 1038 1039",
    "automotive": "47 89 138 148 170 273 438 473 610 803 806 810 815 820 822 826 836 840 843 855 863 1013 1056 1057 "
    "1140 1188 1190 1212 1213 1267",
    "beauty": "44 93 143 144 147 234 238 239 242 1219 1220",
    "fashion": "68 98 124 185 350 530 697 983 984 986 987 989 990 992 997",
    "fitness": "94 241 611",
    "books": "22 355",
    "business": "12 25 49 50 287 551 552 784 841 955 1150 1163 1164 1176 1179 1199",
    "technology": "5 13 30 31 32 77 224 225 303 304 311 314 315 497 498 577 728 729 730 734 736 737 785 807 901 902 "
    "1142 1227",
    "electronics": "78 91 227 229 305 306 307 309 310 312 361 362 434 487 573 1192 1277",
    "mobile_apps": "532 1109",
    "finance": "7 37 38 107 249 278 279 465 466 467 468 619 811 812 814 903 904 1282",
    "food": "71 121 122 276 277 404 405 406 560 825 906 907 909 911 916 918",
    "gaming": "8 39 41 105 381 622 899 919 920 923 924 925 926 927 928 929 930 931 932 933 935 936 937 938 1043 1044 "
    "1045 1046 1146 1290 1311 1342 1343",
    "home": "11 656",
    "news": "16 63 112 408 507 572 1077 1201 1204 1209",
    "careers": "60 802",
    "education": "74 297 804 813 958 1087 1195",
    "law": "19 75 423 424 427 522 969 1272 1294",
    "parenting": "58 115 401 402 403 432 974 985 1132 1231 1374",
    "pets": "66",
    "real_estate": "29",
    "science": "174 231 436 442 443 444 1168",
    "shopping": "18 61 64 69 70 73 99 292 323 352 353 365 531 576 696 1143 1210 1225",
    "sports": "20 118 180 258 259 260 261 262 263 264 265 294 296 458 512 513 514 515 516 517 519 541 554 998 1000 "
    "1001 1016 1073 1077 1082 1126 1148 1198 1273 1376",
    "travel": "67 179 203 205 206 208 662 707 708 1003 1004 1008 1009 1010 1011 1019 1074 1119",
}

TAG_OF: dict[int, str] = {
    int(topic): f"interest.{name}" for name, topics in reversed(_IDS.items()) for topic in topics.split()
}
"""{topic id: tag name}; a topic under two parents counts for the first."""


def interests(topics: Iterable[int], weights: Iterable[float]) -> dict[str, float]:
    """Tag names with the summed weight of a page's topics; weights as AdX sends them, 0..1.

    >>> interests([47, 8, 999999], [0.25, 0.5, 0.25])
    {'interest.automotive': 0.25, 'interest.gaming': 0.5}
    """
    found: dict[str, float] = {}
    for topic, weight in zip(topics, weights, strict=True):
        if (name := TAG_OF.get(topic)) is not None:
            found[name] = found.get(name, 0.0) + weight
    return found

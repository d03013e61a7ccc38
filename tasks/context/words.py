"""English words to make keys, sentences and lists of, and names of people."""

from __future__ import annotations

import functools


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


ADJECTIVES = _listed(
    """able aged ample aqua bare bitter bland blue bold brave brief bright brisk broad brown busy
    calm candid cheap chief civil clean clear clever close cloudy coarse cold cool coral cosy crisp
    cruel curious curly damp dark dear deep dense dim direct dizzy double dry dull dusty eager early
    earnest easy elder empty equal exact faint fair famous fancy fast fierce fine firm fiscal flat
    fluffy fond formal frank free fresh frosty full funny gentle giant glad gloomy golden good grand
    grave great green grey gross happy harsh hasty hazy heavy hidden hollow honest hot huge humble
    icy ideal idle immense inner jolly joint keen kind large last late lazy lean level light little
    lively local lone long loose loud low loyal lucky major mellow merry mild minor misty modern
    moist narrow native neat new noble noisy novel odd old open outer pale plain polite poor proud
    pure quick quiet rapid rare raw ready real red rich ripe rough round royal rude rural sad safe
    salty scarce sharp short shy silent silver simple slim slow small smooth soft solar solid sour
    spare stale steady steep stiff strange strict strong sturdy subtle sudden sunny sweet swift tall
    tame tart tasty tender thick thin tidy tight tiny tired tough true urban usual vague vain vast
    vivid warm wary weak weary wet white wide wild wise witty wooden worthy young zesty"""
)
NOUNS = _listed(
    """acorn actor album alley anchor angle apple apron arch arrow attic badge baker ball bank barn
    basin basket beach beam bear bell bench berry bird blade blanket boat bone book boot border
    bottle bow bowl box branch brass bread brick bridge broom brush bucket bulb bus butter button
    cabin cable cage cake camel camera canal candle canoe canyon cape card carpet cart castle cat
    cave cedar cellar chain chair chalk chapel cherry chess chest cliff clock cloth cloud clover
    coach coast coat cobra coin comet copper cord corn cottage cotton court cousin crab crane crayon
    creek crow crown cup curtain dance deer desert desk diamond dinner doll donkey door dove dragon
    drawer dream drum duck eagle ear earth echo elbow engine falcon farm feather fence fern ferry
    field finger flag flame flask fleet flower flute forest fork fossil fountain fox frame garden
    garlic gate ghost glass globe glove goat goose grain grape guitar hammer harbour harp hat hawk
    hedge helmet heron hill honey hook horn horse hotel house island ivory jacket jar jewel judge
    jungle kettle key king kite kitten knife knot ladder lake lamp lantern lawn leaf lemon letter
    lion lizard lobster locket magnet mango map maple market mask meadow melon metal mirror monkey
    moon moss motor mountain mouse museum nail needle nest net oak oar ocean olive onion orange
    orchard otter oven owl oyster paddle palace panda paper parrot path peach pearl pebble pencil
    penguin pepper piano pillow pilot pine pipe pirate planet plate plum pocket poet pond pony
    potato prince pumpkin puzzle quail queen quill rabbit radio raft rain rat ribbon ring river
    road robin rocket roof root rope rose ruby ruler saddle sail salmon salt sand scarf school
    scissors sea seal seed shark sheep shell ship shoe shovel shrimp silk sister skate sky sled
    snail snow soap sock sofa spider spoon spring square stable stamp star station statue stone
    storm stove straw street sugar suit sun swan sword table tail tailor teacher tent theatre
    thimble thorn thread throne thumb tiger toast tomato tooth torch tower town toy train tray
    treasure tree trumpet tulip tunnel turkey turtle uncle valley vase velvet village vine violin
    volcano wagon wall walnut watch water wave weasel whale wheat wheel whistle willow window wing
    winter wolf wool wrist yard zebra"""
)
FIRST_NAMES = _listed(
    """Ada Agnes Alan Alma Amos Anna Anton Arthur Basil Beatrice Bella Boris Bruno Carl Carmen Cecil
    Clara Claude Cora Cyril Daisy David Diana Dora Edgar Edith Elias Ella Elsa Emil Emma Enid Ernest
    Esther Ethel Eva Felix Flora Frank Frida George Gilda Gloria Grace Greta Hans Harold Harriet
    Hazel Hector Helen Hugo Ida Igor Ingrid Irene Iris Isaac Ivan Ivy Jacob Jane Jasper Joan"""
)
LAST_NAMES = _listed(
    """Abbot Adler Archer Ashby Baker Barlow Becker Bennet Bishop Blake Bolton Brandt Brewer Burke
    Butler Carter Castle Chandler Clarke Conrad Cooper Crane Dalton Dawson Dexter Draper Drake Dunn
    Ellis Fabian Farmer Fischer Fletcher Foster Fowler Frost Gardner Gibson Glover Graham Harper
    Hayes Hooper Hudson Hunter Jarvis Keller Kent Lambert Larsen Lawson Mason Mercer Miller Morris
    Norton Osborne Palmer Parker Porter Quinn Ramsey Sawyer Turner"""
)


@functools.cache
def words() -> tuple[bytes, ...]:
    """Single words, then all pairs of an adjective and a noun: no word twice."""
    single = [word.encode() for word in (*NOUNS, *ADJECTIVES)]
    return (*single, *pairs())


@functools.cache
def pairs() -> tuple[bytes, ...]:
    """`adjective-noun`, as RULER's keys are."""
    return tuple(f"{a}-{n}".encode() for a in ADJECTIVES for n in NOUNS)


@functools.cache
def phrases() -> tuple[bytes, ...]:
    """`adjective noun`, to make sentences of."""
    return tuple(pair.replace(b"-", b" ") for pair in pairs())


@functools.cache
def people() -> tuple[bytes, ...]:
    """First and last names, no person twice."""
    return tuple(f"{a} {b}".encode() for a in FIRST_NAMES for b in LAST_NAMES)
